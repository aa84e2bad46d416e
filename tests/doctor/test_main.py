"""`moesif-proxy doctor` as a process: its lines, its document and its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from mitmproxy_moesif.doctor import main
from mitmproxy_moesif.doctor.findings import Level
from tests.doctor.subjects import a_subject
from tests.support import APPLICATION_ID
from tests.support.collector import ScriptedCollector
from tests.support.proxy import _environment
from tests.support.upstream import ScriptedUpstream


def doctor(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mitmproxy_moesif", "doctor", "--listen", "127.0.0.1:0"]
    return subprocess.run(
        [*command, "--set", f"confdir={folder}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=_environment(environment),
        cwd=folder,
        check=False,
    )


def test_where_all_is_well_each_line_is_ok(
    tmp_path: Path, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    account = {"MOESIF_APPLICATION_ID": APPLICATION_ID, "MOESIF_API_ENDPOINT": collector.url}
    ended = doctor(tmp_path, "--upstream", upstream.url, "--set", "moesif_spool_max_bytes=1000000", **account)
    assert ended.returncode == 0, ended.stdout
    assert ended.stderr == ""
    assert {line.split()[0] for line in ended.stdout.splitlines()} == {"ok"}
    checked = {line.split()[1] for line in ended.stdout.splitlines()}
    assert checked == {"configuration", "versions", "upstream", "moesif", "environment", "ports", "spool"}
    assert APPLICATION_ID not in ended.stdout
    assert not collector.posts()


def test_a_failure_is_told_with_what_to_do_and_makes_the_exit_code_1(tmp_path: Path) -> None:
    ended = doctor(tmp_path, "--upstream", "http://127.0.0.1:9", "--json")
    assert ended.returncode == 1
    told = json.loads(ended.stdout)
    assert told["ok"] is False
    failures = [finding for finding in told["findings"] if finding["level"] == "failure"]
    assert [finding["check"] for finding in failures] == ["configuration", "upstream"]
    assert "application_id is missing" in failures[0]["text"]
    assert "refuses connections" in failures[1]["text"]
    assert all(finding["todo"] for finding in failures)


def test_the_document_may_name_what_is_no_utf_8(tmp_path: Path) -> None:
    ended = doctor(tmp_path, "--upstream", "http://127.0.0.1:9", "--json", SSL_CERT_FILE="/caf\udce9")
    assert ended.returncode == 1, ended.stderr
    texts = [finding["text"] for finding in json.loads(ended.stdout)["findings"]]
    assert "SSL_CERT_FILE: /caf\\udce9 does not exist" in texts


def test_ctrl_c_is_told_as_what_it_is(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.answer("/", lambda _, connection: connection.hang())
    command = [sys.executable, "-m", "mitmproxy_moesif", "doctor", "--upstream", upstream.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment({}), cwd=tmp_path)
    upstream.wait_for(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "moesif-proxy doctor: interrupted: not everything was checked\n")


def test_masks_that_are_paths_are_warned_of(
    tmp_path: Path, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    account = {"MOESIF_APPLICATION_ID": APPLICATION_ID, "MOESIF_API_ENDPOINT": collector.url}
    options = ("--set", "moesif_spool_max_bytes=1000000", "--set", "moesif_request_body_masks=user.password")
    ended = doctor(tmp_path, "--upstream", upstream.url, *options, **account)
    (line,) = [line for line in ended.stdout.splitlines() if not line.startswith("ok")]
    assert line.startswith("warning  configuration")
    assert line.endswith("taken as whole names: user.password -> give only the name: it is found at any depth")


def test_each_option_that_a_start_would_refuse_is_a_failure(tmp_path: Path) -> None:
    wrong = {
        "moesif_batch_size=0": "batch_size: ",
        "moesif_batch_sise=5": "did you mean moesif_batch_size?",
        "moesif_debug=maybe": "debug: must be true or false",
        "modus=x": "modus: there is no such option",
    }
    arguments = [word for setting in wrong for word in ("--set", setting)]
    ended = doctor(tmp_path, "--upstream", "http://127.0.0.1:9", *arguments)
    assert ended.returncode == 1
    assert ended.stderr == ""
    failures = [line for line in ended.stdout.splitlines() if line.startswith("failure  configuration")]
    assert all(any(said in line for line in failures) for said in wrong.values()), ended.stdout
    todo = {line.split(": ")[0].split()[-1]: line.rpartition(" -> ")[2] for line in failures}
    assert todo["debug"] == "correct it: the proxy does not start with it"
    assert todo["moesif_batch_sise"] == todo["modus"] == "moesif-proxy --options lists all options"


def test_a_check_that_fails_of_itself_does_not_keep_the_others() -> None:
    def broken(_: object) -> object:
        raise RuntimeError(APPLICATION_ID)

    (finding,) = main.carried_out("x", broken, a_subject())  # type: ignore[arg-type]
    assert finding.level is Level.FAILURE
    assert APPLICATION_ID not in finding.line()

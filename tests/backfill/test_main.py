"""`moesif-proxy backfill` as a process: saved traffic to events."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from mitmproxy.io import FlowWriter, tnetstring
from mitmproxy.test import tflow

from mitmproxy_moesif.backfill.main import main
from tests.backfill.entries import an_entry, write_har
from tests.support import APPLICATION_ID
from tests.support.collector import Answer, ScriptedCollector, refuse_events
from tests.support.proxy import _environment

SECONDS = 60
MEGABYTES = int(os.environ.get("MOESIF_TEST_HAR_MEGABYTES", "60"))
"""Of a large file: `make soak` has it a gigabyte."""

HAR_SECONDS = SECONDS + MEGABYTES
MOST_KILOBYTES = 160_000
"""Of memory, whatever the file's size."""


def start(folder: Path, collector: ScriptedCollector, *arguments: str | Path, **parameters: Any) -> Any:
    command = [sys.executable, "-m", "mitmproxy_moesif", "backfill", *map(str, arguments)]
    given = {
        "application_id": APPLICATION_ID,
        "api_endpoint": collector.url,
        "spool_dir": folder / "spool",
        **parameters,
    }
    environment = {f"MOESIF_{name.upper()}": str(value) for name, value in given.items()}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment(environment), cwd=folder)


def backfill(folder: Path, collector: ScriptedCollector, *arguments: str | Path, **parameters: Any) -> tuple[int, str]:
    """Exit code and what it said."""
    process = start(folder, collector, *arguments, **parameters)
    _, said = process.communicate(timeout=SECONDS)
    assert APPLICATION_ID not in said
    return process.returncode, said


def flow_file(path: Path, *flows: Any) -> Path:
    with path.open("wb") as file:
        for flow in flows:
            FlowWriter(file).add(flow)
    return path


def test_saved_traffic_becomes_events_with_their_own_times_ids_and_masks(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """What is older than 30 days is counted; what is sent once more has the same ids."""
    entries = [an_entry("/old", days=31), an_entry("/1", days=20), an_entry("/2", days=2)]
    har = write_har(tmp_path / "saved.har", *entries)
    http = [tflow.tflow(resp=True), tflow.tflow(err=True)]
    for number, flow in enumerate(http):
        flow.request.timestamp_start = time.time() - number
    flows = flow_file(tmp_path / "flows", *http, tflow.tdnsflow())
    code, said = backfill(tmp_path, collector, har, flows, har, request_body_masks="password", user_id_header="x-user")
    assert code == 0, said
    assert "moesif: captured 8, delivered 6, waiting 0, dropped 2 (too_old 2); 1 not HTTP" in said
    first, second, *others = sorted(collector.events(), key=lambda event: event["request"]["time"])
    assert first["request"]["uri"] == "https://api.example.com/1"
    assert first["request"]["time"] == entries[1]["startedDateTime"].removesuffix("Z")
    assert first["request"]["body"] == {"n": 1}
    assert (first["user_id"], first["response"]["body"], first["weight"]) == ("ada", {"ok": True}, 1)
    assert second["request"]["uri"] == "https://api.example.com/2"
    assert {event["transaction_id"] for event in others} == {flow.id for flow in http}


def test_what_is_not_delivered_is_told_and_makes_the_exit_code_1(tmp_path: Path, collector: ScriptedCollector) -> None:
    collector.script = refuse_events(lambda event: event["request"]["uri"].endswith("/bad"))
    har = write_har(tmp_path / "saved.har", an_entry("/1"), {"request": {}}, an_entry("/2"), an_entry("/bad"))
    (tmp_path / "cut.har").write_bytes(har.read_bytes()[:-2])
    code, said = backfill(tmp_path, collector, tmp_path / "cut.har", har)
    assert code == 1
    assert f"moesif: {har}: entry 2: startedDateTime is missing" in said
    assert "cut.har: ends after entry 4, or is not JSON" in said
    assert "delivered 4, waiting 0, dropped 2 (refused 2); 3 unreadable" in said
    assert {event["request"]["uri"].rpartition("/")[2] for event in collector.events()} == {"1", "2"}


@pytest.mark.parametrize(
    ("given", "told"),
    [({"skip": "~u /2$"}, "1 not captured (skip)"), ({"enabled": "false"}, "2 not captured (enabled=false)")],
)
def test_what_is_not_captured_is_told_with_the_reason(
    given: dict[str, str], told: str, tmp_path: Path, collector: ScriptedCollector
) -> None:
    har = write_har(tmp_path / "saved.har", an_entry("/1"), an_entry("/2"))
    code, said = backfill(tmp_path, collector, har, **given)
    assert code == 0
    assert said.endswith(f"dropped 0; {told}\n")


def test_where_nothing_is_taken_it_gives_up_and_keeps_what_waits(tmp_path: Path, collector: ScriptedCollector) -> None:
    collector.refuse()
    code, said = backfill(tmp_path, collector, "--patience", "0.3", write_har(tmp_path / "saved.har", an_entry()))
    assert code == 1
    assert "stopped: nothing was delivered for 0.3 s: " in said
    assert "waiting 1" in said
    assert re.search(r"^moesif: waiting events are in /.*/backfill; the same command sends them$", said, re.MULTILINE)


def test_after_kill_9_it_goes_on_where_it_was(tmp_path: Path, collector: ScriptedCollector) -> None:
    """Nothing is missing, and little comes twice."""
    har = write_har(tmp_path / "saved.har", *(an_entry(f"/{number}") for number in range(1500)))
    collector.script = lambda _: Answer(delay=0.02)
    process = start(tmp_path, collector, har)
    collector.wait_for(300, timeout=SECONDS)
    process.kill()
    process.communicate()
    assert len(collector.unique_ids()) < 1500
    collector.script = lambda _: None
    code, said = backfill(tmp_path, collector, har)
    assert code == 0, said
    assert "taken by an earlier run" in said
    assert {event["request"]["uri"].rpartition("/")[2] for event in collector.events()} == set(map(str, range(1500)))


def test_one_exchange_that_cannot_be_taken_costs_no_other(tmp_path: Path, collector: ScriptedCollector) -> None:
    """As of a damaged file: what it holds is of another type than mitmproxy's own code takes it to be."""
    flows = flow_file(tmp_path / "flows", tflow.tflow(err=True), tflow.tflow(resp=True))
    with flows.open("rb") as file:
        states = [cast("dict[str, Any]", tnetstring.load(file)) for _ in range(2)]
    states[0]["metadata"] = ["x"]
    states[1]["request"]["timestamp_start"] = time.time()
    with flows.open("wb") as file:
        for state in states:
            tnetstring.dump(state, file)
    code, said = backfill(tmp_path, collector, flows)
    assert code == 1
    assert f"moesif: {flows}: exchange 1 cannot be processed: AttributeError at " in said
    assert "captured 1, delivered 1, waiting 0, dropped 0; 1 unreadable" in said


def test_a_name_may_be_no_utf_8(tmp_path: Path, collector: ScriptedCollector) -> None:
    har = write_har(Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.har")), an_entry("/1"))
    code, said = backfill(tmp_path, collector, har)
    assert (code, said.splitlines()[-1]) == (0, "moesif: captured 1, delivered 1, waiting 0, dropped 0")


def test_sigint_ends_it_with_a_summary(tmp_path: Path, collector: ScriptedCollector) -> None:
    collector.script = lambda _: Answer(how="hang")
    process = start(tmp_path, collector, write_har(tmp_path / "saved.har", an_entry()))
    collector.wait_for(lambda c: bool(c.posts()), timeout=SECONDS)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "stopped: interrupted" in said
    assert "waiting 1" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/nothing.har"], "moesif-proxy backfill: /nowhere/nothing.har: No such file or directory\n"),
        (["/dev"], "moesif-proxy backfill: /dev: Is a directory\n"),
        (["--set", "moesif_batch_sise=1", "x.har"], "moesif_batch_sise: there is no such option"),
        (["--set", "moesif_application_id=", "x.har"], "application_id is missing"),
    ],
)
def test_what_cannot_begin_is_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOESIF_APPLICATION_ID", APPLICATION_ID)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_memory_does_not_grow_with_the_file(tmp_path: Path, collector: ScriptedCollector) -> None:
    path, count = large_har(tmp_path)
    process = start(tmp_path, collector, path)
    most = watched(process)
    assert (process.returncode, len(collector.unique_ids())) == (0, count), process.communicate()[1]
    print(f"{path.stat().st_size / 1e6:.0f} MB of HAR: {most / 1000:.0f} MB of memory")
    assert 0 < most < MOST_KILOBYTES


def test_a_large_file_that_was_killed_in_the_middle_is_gone_on_with(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """Each exchange has one id in both runs, and arrives."""
    path, count = large_har(tmp_path)
    collector.script = lambda _: Answer(delay=0.02)
    process = start(tmp_path, collector, path)
    collector.wait_for(count // 3, timeout=HAR_SECONDS)
    killed_at = peak_of(process.pid)
    process.kill()
    process.communicate()
    assert len(collector.unique_ids()) < count
    collector.script = lambda _: None
    process = start(tmp_path, collector, path)
    most = watched(process)
    assert process.returncode == 0, process.communicate()[1]
    arrived = {event["request"]["uri"]: event["transaction_id"] for event in collector.events()}
    assert len(arrived) == len(set(arrived.values())) == len(collector.unique_ids()) == count
    twice = len(collector.ids()) - count
    print(f"killed in the middle: {killed_at / 1000:.0f} MB, the second run {most / 1000:.0f} MB; {twice} sent twice")
    assert 0 < max(killed_at, most) < MOST_KILOBYTES


def large_har(folder: Path) -> tuple[Path, int]:
    """Where it is, and how many exchanges it has: half of them have a body that is too large for events."""
    path, count = folder / "large.har", MEGABYTES * 8
    with path.open("w") as file:
        file.write('{"log": {"entries": [')
        for number in range(count):
            entry = an_entry(f"/{number}")
            entry["response"]["content"]["text"] = "x" * (250_000 if number % 2 else 100)
            file.write((", " if number else "") + json.dumps(entry))
        file.write("]}}")
    assert path.stat().st_size > MEGABYTES * 1_000_000
    return path, count


def watched(process: Any) -> int:
    """The most memory that it had until its end: its own, as `ru_maxrss` tells of the one that forked it, too."""
    most = 0
    while process.poll() is None:
        most = max(most, peak_of(process.pid))
        time.sleep(0.02)
    return most


def peak_of(pid: int) -> int:
    """Most kilobytes so far that have been resident."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0

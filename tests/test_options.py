"""The parameter table at work: options, environment, validation, live changes, and the page of options."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.addonmanager import Loader
from mitmproxy.test import taddons

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.options import PARAMETERS, given_environment, read_given
from mitmproxy_moesif.config.policy import remark_on_masks
from mitmproxy_moesif.config.reference import markdown
from mitmproxy_moesif.config.settings import SECRETS, Settings, SettingsError, option_name, parse_settings
from mitmproxy_moesif.delivery.receivers.ndjson import FileReceiver
from tests.support import ADDON_SCRIPT, APPLICATION_ID, REPOSITORY
from tests.support.addon import addon_options, exit_counts, option_changer
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.proxy import BIN, Mitmdump, failed_start
from tests.support.upstream import ScriptedUpstream

SOMETHING = {"moesif_application_id": APPLICATION_ID}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "application_id is missing"),
        ({"moesif_application_id": ""}, "application_id is missing"),
        ({**SOMETHING, "moesif_batch_size": "x"}, "batch_size: must be a whole number, 'x' was given"),
        ({**SOMETHING, "moesif_batch_size": "0"}, "batch_size: should be greater than or equal to 1, 0 was given"),
        ({**SOMETHING, "moesif_debug": "maybe"}, "debug: must be true or false, 'maybe' was given"),
        ({**SOMETHING, "moesif_position": "above"}, "position: should be 'auto', 'front' or 'behind', 'above' was"),
        (
            {**SOMETHING, "moesif_batch_sise": "5"},
            "moesif_batch_sise: there is no such option; did you mean",
        ),
        *(
            ({**SOMETHING, wrong: "true"}, f"{wrong}: there is no such option; did you mean {right}?")
            for wrong, right in (
                ("moesif_jwt_gate", "jwt_gate"),
                ("debug", "moesif_debug"),
                ("request_body_masks", "moesif_request_body_masks"),
                ("config.batch_size", "moesif_batch_size"),
                ("moesif-batch-size", "moesif_batch_size"),
                ("MOESIF_BATCH_SIZE", "moesif_batch_size"),
                ("moesif_akto_service_url", "akto_service_url"),
            )
        ),
        ({**SOMETHING, "moesif_trusted_ips": "10.0.0.0/99"}, "trusted_ips: must be a list of IP networks in CIDR form"),
        ({**SOMETHING, "moesif_api_endpoint": "moesif.net"}, "api_endpoint: must be an http or https URL"),
        ({**SOMETHING, "moesif_connect_timeout": "0"}, "connect_timeout: should be greater than 0, 0 was given"),
        ({"akto_service_url": "akto:9091"}, "akto_service_url: must be an http or https URL"),
        ({**SOMETHING, "akto_log_level": "loud"}, "akto_log_level: should be 'debug', 'info', 'warn' or 'error'"),
        ({**SOMETHING, "akto_servise_url": "x"}, "akto_servise_url: there is no such option; did you mean akto_"),
        ({"moesif_sink_file": "/dev"}, "sink_file: cannot write /dev: Is a directory"),
        ({"moesif_sink_file": "/no/such/file"}, "sink_file: cannot write /no/such/file: No such file or directory"),
        ({**SOMETHING, "moesif_admin_listen": "nowhere"}, "admin_listen: "),
        ({**SOMETHING, "moesif_admin_listen": "127.0.0.1:0", "moesif_admin_state": "/dev"}, "admin_state: /dev"),
        (
            {**SOMETHING, "moesif_admin_listen": "127.0.0.1:0", "moesif_admin_state": "/no/such/file"},
            "admin_state: /no/such/file: the folder /no/such does not exist",
        ),
    ],
)
def test_a_bad_start_ends_with_one_line(options: dict[str, Any], line: str) -> None:
    ended = failed_start(None, options)
    assert ended.code == 1
    said = [text for text in ended.output.splitlines() if "moesif:" in text]
    assert len(said) == 1
    assert line in said[0]
    assert "Traceback" not in ended.output
    assert APPLICATION_ID not in ended.output


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("\nasync def skip(exchange): return True\n", "line 2: skip must be a plain function"),
        ("def metadata(exchange): yield {}\n", "line 1: metadata must be a plain function"),
    ],
)
def test_a_hook_whose_result_nobody_would_await_ends_the_start(source: str, what: str, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text(source)
    with pytest.raises(SettingsError, match=f"^hooks: {hooks}, {what}"):
        Instance.compile(parse_settings({"application_id": "x", "hooks": str(hooks)}))


def test_a_file_of_hooks_that_cannot_be_read_is_told_apart_from_one_that_fails(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.py"
    with pytest.raises(SettingsError, match=f"^hooks: {hooks}: No such file or directory$"):
        Instance.compile(parse_settings({"application_id": "x", "hooks": str(hooks)}))
    hooks.write_text("open('/nowhere/else')\n")
    with pytest.raises(SettingsError, match=f"^hooks: {hooks} cannot be loaded: FileNotFoundError"):
        Instance.compile(parse_settings({"application_id": "x", "hooks": str(hooks)}))


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "re2.py").write_text("raise ModuleNotFoundError('No module named re2', name='re2')\n")
    command = [str(BIN / "mitmdump"), "-q", "-s", str(ADDON_SCRIPT), "--set", f"confdir={tmp_path}", "-p", "0"]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if "moesif" in line]
    assert line == f"moesif: the package re2 is missing: {sys.executable} -m pip install {REPOSITORY}"


@pytest.mark.parametrize("word", ["yes", "Off"])
def test_true_and_false_have_the_same_words_as_option_and_in_the_environment(
    word: str, mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector
) -> None:
    captured = {}
    for options, environment in (({"moesif_enabled": word}, {}), ({}, {"MOESIF_ENABLED": word})):
        given = {**addon_options(collector), **options}
        proxy = mitmdump(upstream.url, given, environment=environment)
        exchange(proxy.port)
        assert proxy.stop() == 0
        captured[bool(options)] = exit_counts(proxy.output)["captured"]
    expected = 1 if word == "yes" else 0
    assert captured == {True: expected, False: expected}


def test_what_has_no_effect_is_told(mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream) -> None:
    proxy = mitmdump(upstream.url, {**SOMETHING, "moesif_spool_dir": "off", "moesif_admin_token": "t0ken"})
    proxy.wait_for_output("moesif: no effect without admin_listen: admin_token")
    assert proxy.stop() == 0
    assert "t0ken" not in proxy.output


def test_standard_output_is_that_of_the_process_that_was_started() -> None:
    assert parse_settings({"sink_file": "/dev/stdout"}).sink_file == f"/proc/{os.getpid()}/fd/1"


def test_a_pipe_takes_events_that_are_larger_than_it() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        sender = threading.Thread(target=lambda: FileReceiver(f"/proc/self/fd/{writing}").send([b"x" * 200_000, b"y"]))
        sender.start()
        assert pipe.readline() == b"x" * 200_000 + b"\n"
        assert pipe.readline() == b"y\n"
        sender.join()
        os.close(writing)


@pytest.mark.parametrize(
    "url", ["http://ada:s3cret@h", "http://h/?key=s3cret", "ada:s3cret@h", "ftp://ada:s3cret@h", "http://h:x/#s3cret@"]
)
def test_a_secret_in_a_refused_url_is_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="api_endpoint: must be an http or https URL") as refused:
        parse_settings({"application_id": "x", "api_endpoint": url})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"MOESIF_BATCH_SIZE": "many"}, "batch_size: must be a whole number, 'many' was given"),
        ({"MOESIF_BATCHSIZE": "5"}, "environment variable MOESIF_BATCHSIZE: there is no such parameter; did you mean"),
        (
            {"MOESIF_JWT_GATE": "true"},
            "MOESIF_JWT_GATE: there is no such parameter; the JWT gate's are options only: --set",
        ),
        ({"AKTO_TIMEOUT": "soon"}, "akto_timeout: must be a whole number, 'soon' was given"),
    ],
)
def test_a_bad_environment_ends_the_start(environment: dict[str, str], line: str) -> None:
    ended = failed_start(None, SOMETHING, environment=environment)
    assert ended.code == 1
    assert line in ended.output


def test_a_bad_value_in_the_configuration_file_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("moesif_application_id: abc\nmoesif_api_version: 1.0\n")
    ended = failed_start(None, folder=tmp_path)
    assert ended.code == 1
    assert "api_version: must be one text, 1.0 was given" in ended.output
    assert "Traceback" not in ended.output


SERVICE_LINKS = (
    *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "SERVICE_PORT_ADMIN_API", "PORT"),
    *(
        f"PORT_8080_{protocol}{suffix}"
        for protocol in ("TCP", "UDP", "SCTP")
        for suffix in ("", "_PROTO", "_PORT", "_ADDR")
    ),
)
"""What Kubernetes has in the environment of a service's namespace, behind its name."""


def test_kubernetes_service_links_are_nobodys_typing_error(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    environment = {f"{service}_{name}": "80" for service in ("MOESIF", "MOESIF_PROXY") for name in SERVICE_LINKS}
    proxy = mitmdump(upstream.url, addon_options(collector), environment=environment)
    exchange(proxy.port)
    collector.wait_for(1)


def test_what_only_resembles_a_service_link_is_a_typing_error() -> None:
    for name in ("MOESIF_PORTS", "MOESIF_PORT_80", "MOESIF_SERVICE_PORTS", "MOESIF_SERVICE_HOSTNAME", "MOESIF__PORT_X"):
        with pytest.raises(SettingsError, match=name):
            given_environment({name: "80"})


def test_precedence_set_then_file_then_environment(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("moesif_api_version: file\nmoesif_user_id_header: x-file\n")
    environment = {
        "MOESIF_API_VERSION": "environment",
        "MOESIF_USER_ID_HEADER": "x-environment",
        "MOESIF_COMPANY_ID_HEADER": "x-environment",
        "MOESIF_REQUEST_HEADER_MASKS": "x-one, x-two",
        "MOESIF_APPLICATION_ID": APPLICATION_ID,
        "MOESIF_API_ENDPOINT": collector.url,
    }
    options = {"moesif_api_version": "set", "moesif_flush_interval": 20}
    proxy = mitmdump(upstream.url, options, environment=environment, folder=tmp_path)
    headers = [("X-File", "file"), ("X-Environment", "environment"), ("X-One", "1"), ("X-Two", "2")]
    exchange(proxy.port, headers=headers)
    (event,) = collector.wait_for(1)
    assert event["request"]["api_version"] == "set"
    assert event["user_id"] == "file"
    assert event["company_id"] == "environment"
    assert not {"x-one", "x-two"} & set(event["request"]["headers"])
    assert collector.posts()[0].headers["x-moesif-application-id"] == APPLICATION_ID


def test_live_changes_count_at_once_or_are_refused(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    changer = option_changer(tmp_path)
    proxy = mitmdump(upstream.url, addon_options(collector), scripts=[REPOSITORY / "addon" / "moesif.py", changer])

    def change(text: str) -> str:
        answer = exchange(proxy.port, headers=[("X-Change", text)])
        assert answer is not None
        return answer.body.decode()

    def api_version() -> str:
        exchange(proxy.port, target="/after")
        return str(collector.wait_for(len(collector.events()) + 1)[-1]["request"]["api_version"])

    assert change("moesif_api_version=2.0") == "taken"
    collector.wait_for(1)
    assert api_version() == "2.0"
    assert "batch_size: should be greater than or equal to 1" in change("moesif_batch_size=0")
    collector.wait_for(3)
    assert api_version() == "2.0"
    assert "can only be set at the start" in change("moesif_spool_dir=/elsewhere")
    assert "application_id is missing" in change("moesif_application_id=")
    assert change("moesif_enabled=false") == "taken"
    exchange(proxy.port, target="/unseen")
    assert change("moesif_enabled=true") == "taken"
    exchange(proxy.port, target="/seen")
    events = collector.wait_for(lambda c: any("/seen" in e["request"]["uri"] for e in c.events()))
    assert not any("/unseen" in event["request"]["uri"] for event in events)
    assert "Traceback" not in proxy.output


def test_options_are_listed_with_their_help() -> None:
    script = REPOSITORY / "addon" / "moesif.py"
    listed = subprocess.run([BIN / "mitmdump", "-s", script, "--options"], capture_output=True, text=True, check=True)
    for name in Settings.model_fields:
        assert f"\n{option_name(name)}:" in listed.stdout
    assert "moesif:" not in listed.stderr


@pytest.mark.parametrize(("given", "expected"), [("a,b", ("a", "b")), (["a, b", "c"], ("a", "b", "c")), ([], ())])
def test_lists_repeated_or_with_commas(given: Any, expected: tuple[str, ...]) -> None:
    assert parse_settings({"request_body_masks": given}).request_body_masks == expected


@pytest.mark.parametrize(("setting", "expected"), [("", ()), ("a,,b,", ("a", "b"))])
def test_a_list_option_with_nothing_in_it_is_an_empty_list(setting: str, expected: tuple[str, ...]) -> None:
    """As from `--set moesif_request_body_masks="$MASKS"` with no such variable."""
    with taddons.context() as context:
        PARAMETERS.register(Loader(context.master))
        context.options.set(f"moesif_request_body_masks={setting}")
        assert parse_settings(read_given(context.options, {})).request_body_masks == expected
    assert parse_settings({"request_body_masks": setting}).request_body_masks == expected


@pytest.mark.parametrize(
    ("given", "connect", "send"),
    [
        ({}, 1.0, 5.0),
        ({"timeout": 2000}, 2.0, 2.0),
        ({"timeout": 2000, "send_timeout": 3000}, 1.0, 3.0),
        ({"timeout": 2000, "connect_timeout": 300}, 0.3, 5.0),
    ],
)
def test_the_deprecated_timeout_serves_where_it_alone_is_given(
    given: dict[str, int], connect: float, send: float
) -> None:
    settings = parse_settings(given)
    assert (settings.connect_seconds, settings.send_seconds) == (connect, send)


def test_deprecated_parameters_are_told_once(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, timeout=2000, request_masks=["a"]))
    proxy.wait_for_output("request_masks is deprecated: use request_body_masks")
    assert proxy.output.count("timeout is deprecated") == 1


def test_masks_that_are_paths_are_told_to_be_names(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    masks = {
        "request_body_masks": ["user.password", "ssn"],
        "request_masks": ["$..pin"],
        "request_query_masks": ["a b"],
    }
    proxy = mitmdump(upstream.url, addon_options(collector, **masks))
    proxy.wait_for_output("not paths or patterns; taken as whole names: $..pin, user.password\n")
    assert proxy.output.count("not paths") == 1


@pytest.mark.parametrize("mask", ["$.a", "a[0]", "a[]", "*", "a.*.b", "/a", '"a"', "'a'", "{a}", "a;b", "a|b"])
def test_a_mask_that_finds_nothing_most_likely_is_remarked_on(mask: str) -> None:
    remark = remark_on_masks([parse_settings({"response_body_masks": [mask, "a-b", "a_b", "é", "a b", "x:y", "@a"]})])
    assert remark is not None
    assert remark.endswith(f": {mask}")


def test_a_secret_is_in_no_error_and_no_repr() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"application_id": "s3cret\n\x01", "nonsense": 1})
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(parse_settings({"application_id": "s3cret"}))
    assert {"application_id"} <= SECRETS


def test_the_options_page_has_the_table_that_is_made_from_the_fields() -> None:
    assert f"\n{markdown(Settings)}\n" in (REPOSITORY / "compose" / "OPTIONS.md").read_text()


def test_the_table_is_printed() -> None:
    command = [sys.executable, "-m", "mitmproxy_moesif.config.reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY / "addon")
    assert printed.stdout == markdown(Settings) + "\n"

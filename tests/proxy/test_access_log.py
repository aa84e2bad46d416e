"""A line for each request: what it says, what it never says, and that nobody waits for it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.proxy.access_log import FORMS, MOST_LINES, Access, AccessLog, line_of
from tests.support import APPLICATION_ID
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, exchange
from tests.support.collector import ScriptedCollector
from tests.support.events import Pairs, an_exchange
from tests.support.moesif_proxy import PROGRAM, MoesifProxy
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream

COMBINED = re.compile(
    r'(\S+) - (\S+) \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "([^"]*)" (\d+|-) (\d+) "([^"]*)" "([^"]*)"'
    r" (\d+\.\d{3}) (\S+) (\S+)"
)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_a_line_of_json_for_each_request_whatever_becomes_of_it(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/closes", lambda _, connection: connection.close())
    options = addon_options(collector, skip="~u /skipped", request_query_masks=["token"])
    proxy = moesif_proxy(upstream.url, options, "--access-log", "json")
    exchange(proxy.port, "GET", "/x?token=SECRET&a=1", [("X-Consumer-Username", "ada"), ("User-Agent", "test/1")])
    exchange(proxy.port, "POST", "/skipped", body=b"SECRET")
    exchange(proxy.port, "GET", "/closes")
    exchange(proxy.port, "GET", "/two", [("Host", "h"), ("Host", "g")])
    assert proxy.stop() == 0
    told = lines(proxy.output)
    assert [(one["method"], one["path"], one["status"], one["fate"]) for one in told] == [
        ("GET", "/x?token=*****&a=1", 200, "captured"),
        ("POST", "/skipped", 200, "skip"),
        ("GET", "/closes", 502, "captured"),
        ("GET", "/two", 400, "refused_head"),
    ]
    first = told[0]
    assert (first["user"], first["bytes"], first["client"]) == ("ada", 12, "127.0.0.1")
    assert (first["user_agent"], first["instance"], first["protocol"]) == ("test/1", "options", "HTTP/1.1")
    assert told[2]["error"] == "upstream_failed"
    assert {event["transaction_id"] for event in collector.events()} == {
        told[0]["transaction_id"],
        told[2]["transaction_id"],
    }
    assert all(one["ms"] >= 0 for one in told)
    assert "SECRET" not in proxy.output
    assert "not written" not in proxy.output


def test_what_is_not_captured_has_a_line_too(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector, enabled=False), "--access-log", "json")
    exchange(proxy.port, "GET", "/x")
    assert proxy.stop() == 0
    assert [(one["path"], one["fate"]) for one in lines(proxy.output)] == [("/x", "off")]


KONG = """
_format_version: "3.0"
services:
- name: orders
  url: http://orders
  routes: [{name: orders, paths: [/orders]}]
  plugins: [{name: moesif, config: {application_id: x, request_query_masks: [token], request_header_masks: [referer]}}]
"""


def test_what_is_no_instances_has_nothing_that_one_of_them_masks(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A request is refused before it is looked for whose it is."""
    kong, admin = tmp_path / "kong.yml", free_port()
    kong.write_text(KONG)
    options = {"kong_config": str(kong), "api_endpoint": collector.url, "debug": True}
    given = {f"moesif_{name}": value for name, value in options.items()} | {"moesif_admin_listen": f"127.0.0.1:{admin}"}
    proxy = moesif_proxy(upstream.url, given, "--access-log", "json")
    exchange(proxy.port, "GET", "/orders;token=SECRET?token=SECRET", [("Host", "h"), ("Host", "g")])
    exchange(proxy.port, "GET", "/other;token=SECRET?token=SECRET", [("Referer", "SECRET")])
    proxy.wait_for_output("no event of", count=2)
    listed = requests.get(f"http://127.0.0.1:{admin}/exchanges", timeout=10).text
    assert proxy.stop() == 0
    assert [(one["path"], one["fate"]) for one in lines(proxy.output)] == [
        ("/orders;token=*****?token=*****", "refused_head"),
        ("/other;token=*****?token=*****", "no_instance"),
    ]
    assert listed.count(";token=*****") == 2
    assert "SECRET" not in proxy.output + listed


def test_while_nobody_knows_what_is_masked_a_line_has_no_place(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    with ScriptedUpstream(refusing=True) as kong:
        options = addon_options(collector, kong_admin_url=kong.url, debug=True)
        proxy = moesif_proxy(upstream.url, options, "--access-log", "json")
        exchange(proxy.port, "GET", "/SECRET", [("Host", "SECRET"), ("Referer", "SECRET")])
        assert proxy.stop() == 0
    (one,) = lines(proxy.output)
    assert (one["path"], one["host"], one["referer"], one["fate"]) == (None, None, None, "kong_unknown")
    assert "SECRET" not in proxy.output


def test_workers_write_whole_lines(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--access-log", "combined", workers=2)
    for number in range(20):
        exchange(proxy.port, "GET", f"/{number}", [("Referer", "http://r/"), ("User-Agent", "test/1")])
    assert proxy.stop() == 0
    found = [line for line in (COMBINED.fullmatch(line) for line in proxy.output.splitlines()) if line]
    assert sorted(line[3] for line in found) == sorted(f"GET /{number} HTTP/1.1" for number in range(20))
    assert {line.group(1, 2, 4, 6, 7, 9, 10) for line in found} == {
        ("127.0.0.1", "-", "200", "http://r/", "test/1", "options", "captured")
    }


def test_without_a_terminal_there_is_no_line_unless_it_is_asked_for(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    exchange(proxy.port, "GET", "/x")
    assert proxy.stop() == 0
    assert "/x" not in proxy.output


@contextmanager
def started(
    upstream: ScriptedUpstream, collector: ScriptedCollector, folder: Path, *more: str, out: int
) -> Iterator[tuple[int, Any]]:
    """`moesif-proxy` with its standard output there; its port, and the process."""
    port = free_port()
    options = [f"--set={name}={value}" for name, value in addon_options(collector).items()]
    command = [*PROGRAM, "--listen", f"127.0.0.1:{port}", "--upstream", upstream.url, "--set", f"confdir={folder}"]
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([*command, *options, *more], stdout=out, stderr=stderr, stdin=subprocess.DEVNULL)
    try:
        while b"listening" not in (folder / "stderr").read_bytes():
            assert process.poll() is None
            time.sleep(0.02)
        yield port, process
    finally:
        process.kill()
        process.wait()


def test_a_blocked_standard_output_holds_no_request_and_the_end_tells_of_missing_lines(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with started(upstream, collector, tmp_path, "--access-log", "json", out=writing) as (port, process):
            with Client(port) as client:
                for _ in range(100):
                    answer = client.exchange("GET", "/x")
                    assert answer is not None
                    assert answer.status == 200
            process.terminate()
            assert process.wait(20) == 0
            said = (tmp_path / "stderr").read_text()
    finally:
        os.close(reading)
        os.close(writing)
    found = re.search(r"(\d+) lines of the access log were not written at the end", said)
    assert found is not None, said
    assert 50 < int(found[1]) <= 100
    assert exit_counts(said)["captured"] == 100


def test_at_a_terminal_each_request_has_a_short_line(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    try:
        with started(upstream, collector, tmp_path, out=theirs) as (port, process):
            exchange(port, "GET", "/orders", [("X-Consumer-Username", "ada")])
            written = b""
            while b"\n" not in written:
                written += os.read(ours, 4096)
            process.terminate()
            assert process.wait(20) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert re.fullmatch(rb"\d\d:\d\d:\d\d  \x1b\[32m200\x1b\[0m  GET /orders  [\d.]+ ms  ada\r\n", written)


# --- one line ------------------------------------------------------------------------------------------------------


def access(request: Pairs = (), hooks: str | None = None, **fields: Any) -> Access:
    parameters = {
        "application_id": APPLICATION_ID,
        "request_query_masks": ["token"],
        "request_header_masks": ["x-masked"],
    }
    instance = Instance.compile(parse_settings({**parameters, **({"hooks": hooks} if hooks else {})}))
    return Access(instance, an_exchange(request, **fields), "captured", 7, 1)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_has_a_masked_value_or_a_line_break_or_what_a_terminal_obeys(form: str) -> None:
    one = access(
        [("Referer", "http://r/?token=SECRET"), ("User-Agent", 'a" b\x1b[2J\n\x9b'), ("X-Masked", "SECRET")],
        target=b'/\x1b[2J"\xff?token=SECRET&b=\xc2\x9b',
        method="GET\n",
        authority="a;token=SECRET",
    )
    line = FORMS[form](line_of(one), 1_700_000_000.0)
    assert "SECRET" not in line
    assert line.replace("\033[32m", "").replace("\033[0m", "").isprintable()


def test_a_malformed_method_has_no_masked_value() -> None:
    assert line_of(access(method="GET/?token=SECRET")).method == "GET/?token=*****"


def test_what_a_user_hook_could_mask_is_not_in_the_line(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def mask(event): return event\n")
    headers = [("X-Consumer-Username", "ada"), ("Referer", "r"), ("User-Agent", "a")]
    line = line_of(access(headers, str(hooks), method="GET /x"))
    assert (line.method, line.user, line.path, line.host, line.referer, line.user_agent) == (
        "",
        None,
        None,
        None,
        None,
        None,
    )
    assert COMBINED.fullmatch(FORMS["combined"](line, 0.0))


def test_the_longest_line_is_whole_in_a_pipe() -> None:
    long = "\xff" * 60_000
    one = access(
        [("User-Agent", long), ("Referer", long), ("X-Consumer-Username", long)], target=b"/" + b"\xff" * 60_000
    )
    assert max(len(form(line_of(one), 0.0)) for form in FORMS.values()) < 4096


class Entry:
    """As much of a pending exchange as the log reads."""

    response_tee = None

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.flow = type("Flow", (), {"response": None})


def test_lines_that_find_no_room_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    one = access()
    entry: PendingExchange = Entry(one.instance)  # type: ignore[assignment]
    reading, writing = os.pipe()
    log = AccessLog(FORMS["json"], writing)
    exchange_: Exchange = one.exchange
    for _ in range(MOST_LINES + 7):
        log(entry, exchange_, "captured")
    with caplog.at_level(logging.WARNING, "moesif"), os.fdopen(reading, "rb") as pipe:
        log.start()
        assert all(json.loads(pipe.readline())["fate"] == "captured" for _ in range(MOST_LINES))
        log.close()
        os.close(writing)
        assert pipe.read() == b""
    assert caplog.messages == ["moesif-proxy: 7 lines of the access log are left out: they cannot be written so fast"]


def test_an_output_that_is_gone_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    one = access()
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog(FORMS["json"], writing)
    log(Entry(one.instance), one.exchange, "captured")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "moesif"):
        log.start()
        log.close()
    os.close(writing)
    assert caplog.messages == [
        "moesif-proxy: the access log cannot be written: Broken pipe",
        "moesif-proxy: 1 lines of the access log are left out: they cannot be written so fast",
    ]

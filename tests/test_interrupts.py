"""Ctrl-C at any moment: no traceback, and a line that is true."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import APPLICATION_ID
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, encode_request, exchange
from tests.support.collector import NEVER, ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.ports import free_port
from tests.support.proxy import BIN, Mitmdump
from tests.support.upstream import ScriptedUpstream

NOTHING_YET = "moesif: interrupted before it had started: nothing was captured"
COUNTS = "moesif: captured 0, delivered 0, waiting 0, dropped 0"

PROXY = [str(BIN / "moesif-proxy"), "--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"]
STARTS = {
    "moesif-proxy": PROXY,
    "workers": [
        str(BIN / "moesif-proxy"),
        *["--workers", "2", "--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"],
    ],
    "run": [sys.executable, "-m", "mitmproxy_moesif", "run", "--port", "{port}", "--page-port", "{page_port}"],
}


def heeds_interrupts(pid: int) -> bool:
    caught = re.search(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0, 2.5])
def test_during_the_start(how: str, seconds: float, tmp_path: Path) -> None:
    port, page_port = free_port(), free_port()
    command = [part.format(port=port, page_port=page_port) for part in STARTS[how]]
    if how != "run":
        command += ["--set", f"confdir={tmp_path}", "--set", f"moesif_application_id={APPLICATION_ID}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MOESIF_", "PYTEST_"))}
    process = subprocess.Popen(
        ["env", "--ignore-signal=INT", *command],  # until Python's own start is over, which is nobody's to mend
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    while not heeds_interrupts(process.pid):
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(seconds)  # any moment will do
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert (process.returncode, said.splitlines()[-1]) in ((130, NOTHING_YET), (0, COUNTS))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_says_what_it_waits_for_and_a_second_ctrl_c_ends_it(
    workers: int, moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", lambda _, connection: connection.hang())
    options = addon_options(collector, shutdown_timeout=100_000)
    proxy = moesif_proxy(upstream.url, options, "--drain-timeout", "100", workers=workers)
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.send_signal(signal.SIGINT)
        said = proxy.wait_for_output("in progress, until ")
        assert re.search(r"ending: waiting for 1 request in progress, until \d\d:\d\d:\d\d; Ctrl-C: at once", said)
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait_exit() == 0
    assert "1 request under way, cut: as asked" in proxy.output
    assert exit_counts(proxy.output)["captured"] == 1
    assert "Traceback" not in proxy.output


@pytest.mark.parametrize("program", ["mitmdump", "moesif_proxy"])
def test_events_that_are_waited_for_are_told_and_where_they_stay(
    program: str,
    request: pytest.FixtureRequest,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    start: Callable[..., Mitmdump] = request.getfixturevalue(program)
    collector.script = lambda _: NEVER
    spool = tmp_path / "spool"
    options = addon_options(collector, shutdown_timeout=100_000, send_timeout=90_000, spool_dir=str(spool))
    proxy = start(upstream.url, options)
    exchange(proxy.port, "GET", "/x")
    exchange(proxy.port, "GET", "/y")
    proxy.send_signal(signal.SIGINT)
    said = proxy.wait_for_output("to deliver, until ")
    assert re.search(r"ending: 2 events to deliver, until \d\d:\d\d:\d\d; Ctrl-C: at once", said)
    proxy.send_signal(signal.SIGINT)
    assert proxy.wait_exit() == 0
    *_, left, counts = proxy.output.splitlines()
    # mitmdump's log is written later than its loop goes on, and may end before.
    assert "moesif: ending at once, as requested" in proxy.output or program == "mitmdump"
    assert left == f"moesif: leaves 2 events in {spool} for the next start"
    assert counts == "moesif: captured 2, delivered 0, waiting 2, dropped 0"


def test_under_mitmdump_requests_under_way_are_told(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", lambda _, connection: connection.hang())
    proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=100_000))
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.send_signal(signal.SIGINT)
        proxy.wait_for_output("ending: waiting for 1 request in progress, until ")
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait_exit() == 0
    assert exit_counts(proxy.output)["captured"] == 1

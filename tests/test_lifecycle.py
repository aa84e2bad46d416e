"""Nothing passes before the capture is ready, and nothing after it: clients that are there all the time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import ADDON_SCRIPT
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import ScriptedUpstream

BLOCK_EVERY_GET = """
rules:
  - _id: every-get
    name: Every GET
    type: regex
    block: true
    response: {status: 451, body: {error: blocked}}
    regex_config:
      - conditions: [{path: request.verb, value: GET}]
"""
CLIENTS = 8
EACH = 40


@dataclass
class Waiting:
    """Clients that try a port until somebody listens, and then ask over and over on the same connection.

    A client whose connection is cut before its first answer comes again: the port was only just about to open, or
    close. `statuses` are those of all answers that were read in full.
    """

    port: int
    each: int = EACH
    statuses: list[int] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Waiting:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.statuses

    def stop(self) -> list[int]:
        self._ending.set()
        return self.join()

    def _run(self) -> None:
        left = self.each
        while left and not self._ending.is_set():
            try:
                with Client(self.port) as client:
                    while left and not self._ending.is_set():
                        answer = client.exchange("GET", "/")
                        if answer is None or answer.cut:
                            break
                        self.statuses.append(answer.status)
                        left -= 1
            except OSError:
                self._ending.wait(0.002)  # leaves a core to what is to listen


SLOW = """
import asyncio

async def running():
    await asyncio.sleep(0.5)
"""


MARKS = """
import asyncio, time

time.sleep(0.5)
marks = False

async def running():
    await asyncio.sleep(0.5)
    globals()["marks"] = True

def requestheaders(flow):
    flow.request.headers["X-Marked"] = "yes" if marks else "no"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def options(collector: ScriptedCollector, tmp_path: Path) -> dict[str, Option]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(BLOCK_EVERY_GET)
    return addon_options(collector, rules_file=str(rules))


@pytest.fixture
def waiting() -> Waiting:
    return Waiting(free_port()).start()


def nothing_passed(waiting: Waiting, upstream: ScriptedUpstream, proxy: Mitmdump) -> None:
    """Every answer was the rule's, and each is counted."""
    assert waiting.join() == [451] * (CLIENTS * EACH)
    assert upstream.requests() == []
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["captured"] == CLIENTS * EACH


@pytest.mark.parametrize("workers", [1, 2])
def test_no_answer_passes_a_rule_while_moesif_proxy_starts(
    moesif_proxy: Callable[..., MoesifProxy],
    upstream: ScriptedUpstream,
    options: dict[str, Option],
    waiting: Waiting,
    workers: int,
) -> None:
    proxy = moesif_proxy(upstream.url, options, workers=workers, listen=f"127.0.0.1:{waiting.port}")
    nothing_passed(waiting, upstream, proxy)


def test_no_answer_passes_a_rule_while_mitmdump_starts(
    mitmdump: Callable[..., Mitmdump],
    upstream: ScriptedUpstream,
    options: dict[str, Option],
    waiting: Waiting,
    tmp_path: Path,
) -> None:
    """Also not while another script takes its time to run, with the port open."""
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW)
    proxy = mitmdump(upstream.url, options, scripts=[slow, ADDON_SCRIPT], port=waiting.port)
    nothing_passed(waiting, upstream, proxy)


def test_moesif_proxy_listens_only_when_scripts_run(
    moesif_proxy: Callable[..., MoesifProxy], upstream: ScriptedUpstream, waiting: Waiting, tmp_path: Path
) -> None:
    script = tmp_path / "marks.py"
    script.write_text(MARKS)
    options = addon_options(sink_file=str(tmp_path / "events"))
    proxy = moesif_proxy(upstream.url, options, "-s", str(script), listen=f"127.0.0.1:{waiting.port}")
    assert waiting.join() == [200] * (CLIENTS * EACH)
    assert {request.get("x-marked") for request in upstream.requests()} == {"yes"}
    assert proxy.stop() == 0

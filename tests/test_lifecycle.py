"""Nothing passes before the capture is ready, and nothing after it: clients that are there all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import ADDON_SCRIPT
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.ports import free_port
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
    _answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self) -> Waiting:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, answers: int) -> None:
        for _ in range(answers):
            assert self._answered.acquire(timeout=20)

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
                        self._answered.release()
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
    options = addon_options(sink_file=str(tmp_path / "events"))
    proxy = moesif_proxy(upstream.url, options, *scripted(tmp_path, MARKS), listen=f"127.0.0.1:{waiting.port}")
    assert waiting.join() == [200] * (CLIENTS * EACH)
    assert {request.get("x-marked") for request in upstream.requests()} == {"yes"}
    assert proxy.stop() == 0


@pytest.mark.parametrize("workers", [0, 1, 2], ids=["mitmdump", "one worker", "two workers"])
def test_no_answer_passes_a_rule_or_the_count_while_the_proxy_ends(
    mitmdump: Callable[..., Mitmdump],
    moesif_proxy: Callable[..., MoesifProxy],
    upstream: ScriptedUpstream,
    options: dict[str, Option],
    workers: int,
) -> None:
    proxy = moesif_proxy(upstream.url, options, workers=workers) if workers else mitmdump(upstream.url, options)
    clients = Waiting(proxy.port, each=10**6).start()
    clients.wait_for(200)
    assert proxy.stop() == 0
    statuses = clients.stop()
    assert set(statuses) == {451}
    assert upstream.requests() == []
    captured = exit_counts(proxy.output)["captured"]
    assert len(statuses) <= captured <= len(statuses) + CLIENTS  # an answer that was on its way to each


def test_the_first_replayed_flow_is_captured_too(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector, tmp_path: Path
) -> None:
    flows = tmp_path / "flows"
    saving = mitmdump(upstream.url, scripts=[], extra_args=["-w", str(flows)])
    with Client(saving.port) as client:
        for number in range(3):
            client.exchange("GET", f"/{number}")
    assert saving.stop() == 0
    replaying = mitmdump(upstream.url, addon_options(collector), extra_args=["-C", str(flows)])
    events = collector.wait_for(3)
    assert [urlsplit(event["request"]["uri"]).path for event in events] == ["/0", "/1", "/2"]
    assert replaying.stop() == 0


SABOTEUR = """
class Failing:
    def {hook}(self, flow):
        raise RuntimeError("a fault of another addon")

from mitmproxy_moesif.addon import MoesifAddon

addons = [Failing(), MoesifAddon()]
"""


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_next_hook_makes_up_for_one_that_another_addons_fault_kept_from_us(
    mitmdump: Callable[..., Mitmdump],
    upstream: ScriptedUpstream,
    collector: ScriptedCollector,
    options: dict[str, Option],
    tmp_path: Path,
    method: str,
) -> None:
    """Rules too: a GET is blocked."""
    script = tmp_path / "saboteur.py"
    script.write_text(SABOTEUR.format(hook="requestheaders"))
    proxy = mitmdump(upstream.url, options, scripts=[script])
    with Client(proxy.port) as client:
        answer = client.exchange(method, "/", body=b"x" if method == "POST" else None)
    assert answer is not None
    (event,) = collector.wait_for(1)
    assert event["response"]["status"] == answer.status == (451 if method == "GET" else 200)
    assert [request.method for request in upstream.requests()] == ([] if method == "GET" else ["POST"])


@pytest.mark.parametrize("hooks", [("requestheaders", "request"), ("requestheaders", "request", "responseheaders")])
def test_a_rule_that_is_asked_too_late_lets_nobody_have_the_answer(
    mitmdump: Callable[..., Mitmdump],
    upstream: ScriptedUpstream,
    collector: ScriptedCollector,
    options: dict[str, Option],
    tmp_path: Path,
    hooks: tuple[str, ...],
) -> None:
    script = tmp_path / "saboteur.py"
    faults = "\n    ".join(f"{hook} = fault" for hook in hooks)
    script.write_text(SABOTEUR.format(hook="fault").replace("\n\nfrom", f"\n    {faults}\n\nfrom", 1))
    proxy = mitmdump(upstream.url, options, scripts=[script])
    with Client(proxy.port) as client:
        assert client.exchange("GET", "/") is None
    (event,) = collector.wait_for(1)
    assert event["blocked_by"] == "every-get"

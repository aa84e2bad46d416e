"""The lane under mitmdump: what it carries, what it leaves, and that nothing breaks when the script comes and goes."""

from __future__ import annotations

import os
import ssl
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lane.test_opening import engines, options
from tests.speedups.test_switch import RECORDER, Calls, Run, everything_upstream, of_exchanges, run_through
from tests.support import ADDON_SCRIPT
from tests.support.client import Client, exchange, trusting
from tests.support.ports import free_port
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"


def start(folder: Path, upstream: ScriptedUpstream, *scripts: Path, engine: str = "fast", **more: str) -> Mitmdump:
    proxy = Mitmdump(
        upstream.url, options(folder, moesif_engine=engine, **more), scripts=scripts or (ADDON_SCRIPT,), folder=folder
    )
    proxy.wait_for_output("Admin API at")
    return proxy


def assert_quiet(proxy: Mitmdump) -> None:
    for word in ("Traceback", "crashed", "Addon error"):
        assert word not in proxy.output


def test_exchanges_are_counted_by_what_carries_them(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with start(tmp_path, upstream) as proxy:
        for _ in range(3):
            assert exchange(proxy.port, "GET", "/") is not None
        with Client(proxy.port) as client:
            client.send(GET % b"/first", b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\n\r\n", GET % b"/third")
            assert [answer and answer.status for answer in (client.read_response() for _ in range(3))] == [200] * 3
        assert engines(proxy) == {"fast": 4, "mitmproxy": 2}
        proxy.wait_for_output("] client disconnect", count=4)
        assert proxy.output.count("] client connect") == 4
        assert_quiet(proxy)


def test_it_serves_nothing_with_the_other_engine(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with start(tmp_path, upstream, engine="mitmproxy") as proxy:
        assert exchange(proxy.port, "GET", "/") is not None
        assert engines(proxy) == {"fast": 0, "mitmproxy": 1}


def test_other_modes_beside_it_are_left_to_the_layers(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    ports = free_port(), free_port()
    modes = [f"reverse:{upstream.url}@127.0.0.1:{ports[0]}", f"regular@127.0.0.1:{ports[1]}"]
    given = options(tmp_path, moesif_engine="fast", mode=modes)
    with Mitmdump(None, given, folder=tmp_path) as proxy:
        proxy.wait_for_output("Admin API at")
        assert exchange(ports[0], "GET", "/") is not None
        with Client(ports[1]) as client:
            client.send(b"GET %s/there HTTP/1.1\r\nHost: h\r\n\r\n" % upstream.url.encode())
            answer = client.read_response()
        assert answer is not None
        assert answer.status == 200
        assert engines(proxy) == {"fast": 1, "mitmproxy": 1}
        assert "leaves connections to mitmproxy's layers: regular mode" in proxy.output


def status(client: Client, path: str) -> int | None:
    answer = client.exchange("GET", path)
    return None if answer is None else answer.status


class Slow:
    """An answer that waits until it is let go."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()

    def __call__(self, request: RawRequest, connection: Connection) -> None:
        self.arrived.set()
        connection.wait(self.go)
        plain(request, connection)


def loaded_again(proxy: Mitmdump, script: Path) -> None:
    before = proxy.output.count(f"Loading script {script}")
    later = script.stat().st_mtime + 10
    os.utime(script, (later, later))
    proxy.wait_for_output(f"Loading script {script}", count=before + 1)


def test_a_reload_of_the_script_breaks_nothing(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    script = tmp_path / "moesif.py"
    script.write_text(ADDON_SCRIPT.read_text())
    slow = Slow()
    upstream.answer("/slow", slow)
    with start(tmp_path, upstream, script) as proxy, Client(proxy.port) as idle, Client(proxy.port) as busy:
        assert status(idle, "/before") == 200
        busy.send(GET % b"/slow")
        assert slow.arrived.wait(10)
        loaded_again(proxy, script)
        slow.go.set()
        answer = busy.read_response()
        assert answer is not None
        assert answer.status == 200
        for client in (idle, busy):
            assert status(client, "/after") == 200
        assert exchange(proxy.port, "GET", "/new") is not None
        assert engines(proxy) == {"fast": 5, "mitmproxy": 0}
        assert upstream.connections() == 1
        assert_quiet(proxy)
        assert proxy.stop() == 0
        assert "captured 5, delivered 5" in proxy.output


UNLOAD = """
from mitmproxy import ctx

def response(flow):
    if flow.request.path == "/unload":
        ctx.options.update(scripts=[__file__])
"""


@pytest.mark.parametrize("tls", [None, trusting()], ids=["plain", "TLS"])
def test_where_the_script_goes_its_connections_go_on_in_the_layers(
    tls: ssl.SSLContext | None, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    (tmp_path / "unload.py").write_text(UNLOAD)
    slow = Slow()
    upstream.answer("/slow", slow)
    with (
        start(tmp_path, upstream, tmp_path / "unload.py", ADDON_SCRIPT) as proxy,
        Client(proxy.port, tls=tls) as idle,
        Client(proxy.port, tls=tls) as busy,
        Client(proxy.port, tls=tls) as asking,
    ):
        assert status(idle, "/before") == 200
        busy.send(GET % b"/slow")
        assert slow.arrived.wait(10)
        assert status(asking, "/unload") == 200
        proxy.wait_for_output("Un-loading script")
        slow.go.set()
        answer = busy.read_response()
        assert answer is not None
        assert answer.status == 200
        for client in (idle, busy, asking):
            assert status(client, "/after") == 200
        assert exchange(proxy.port, "GET", "/new") is not None
        proxy.wait_for_output("captured 3, delivered 3")
        assert_quiet(proxy)


def test_the_switch_of_the_dispatch_takes_it_away_and_back(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    (tmp_path / "switch.py").write_text(
        "from mitmproxy import ctx\n"
        "def response(flow):\n"
        "    if flow.request.query: ctx.options.update(moesif_fast_dispatch='on' in flow.request.query)\n"
    )
    with start(tmp_path, upstream, ADDON_SCRIPT, tmp_path / "switch.py") as proxy, Client(proxy.port) as client:
        for path in ("/", "/?off", "/", "/?on"):
            assert status(client, path) == 200
        assert exchange(proxy.port, "GET", "/new") is not None
        assert engines(proxy) == {"fast": 3, "mitmproxy": 2}
        assert_quiet(proxy)


def test_an_idle_connection_ends_when_its_time_is_over(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with start(tmp_path, upstream, tcp_timeout="1") as proxy, Client(proxy.port, timeout=20) as client:
        assert status(client, "/") == 200
        assert client.stream.read() == b""
        assert "Closing connection due to inactivity" in proxy.output


LAYERS = textwrap.dedent("""
    import logging
    from mitmproxy import ctx
    from mitmproxy_moesif.capture import engine
    from mitmproxy_moesif.lane.lending import Lending
    from mitmproxy_moesif.speedups import switch

    def running():
        ctx.options.update(connection_strategy="lazy", keep_host_header=True)
        assert switch.install(ctx.master) is None
        engine.install()
        logging.info("switched")
""")
LANE = LAYERS + '    ctx.master.addons.add(Lending(lambda: "fast"))\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """In the layers and through the lane, with addons that come, go, change places and misbehave."""
    with ExitStack() as stack:
        url = stack.enter_context(everything_upstream()).url
        folder = tmp_path_factory.mktemp("run")
        recorder = RECORDER.replace('"next_layer", ', "")  # with which the lane serves nothing
        layers, lane = (Run(folder / name, url, stack, first, recorder) for name, first in SCRIPTS.items())
        yield run_through(layers), run_through(lane)


SCRIPTS = {"layers": LAYERS, "lane": LANE}


def test_the_same_hooks_in_the_same_order_of_addons_that_misbehave(runs: tuple[Run, Run]) -> None:
    layers, lane = (by_path(of_exchanges(run)) for run in runs)
    assert len(layers) > 30
    assert lane == layers


def by_path(calls: Calls) -> dict[str, Calls]:
    return {path: [call for call in calls if call[2] == path] for _, _, path in calls}


def test_the_same_answers_where_addons_misbehave(runs: tuple[Run, Run]) -> None:
    layers, lane = runs
    assert lane.answers == layers.answers


HOLDS_UP = """
import asyncio
import sys
import time
from pathlib import Path

SENT = Path(__file__).with_name("sent")

async def tls_established_client(data):
    sys.stdout.write("holding up\\n")
    while not SENT.exists():
        time.sleep(0.01)
    await asyncio.sleep(0)  # the loop meets the request in the turn in which this ends
"""


def test_a_client_that_asks_while_a_hook_of_the_handshake_ends_is_let_go(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    script = tmp_path / "holds_up.py"
    script.write_text(HOLDS_UP)
    with start(tmp_path, upstream, script, ADDON_SCRIPT) as proxy:
        with Client(proxy.port, tls=trusting()) as client:
            proxy.wait_for_output("holding up")
            client.send(GET % b"/")
            (tmp_path / "sent").touch()
            assert client.read_response() is not None
            assert status(client, "/again") == 200
            peer = f"[127.0.0.1:{client.sock.getsockname()[1]}] client disconnect"
        proxy.wait_for_output(peer)
        assert_quiet(proxy)

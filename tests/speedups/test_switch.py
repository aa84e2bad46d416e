"""A real mitmdump with and without the measures: the same hooks and bytes, through reloads, faults and removals."""

from __future__ import annotations

import json
import os
import re
import struct
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http, log, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.master import Master
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.context import Context

from mitmproxy_moesif.speedups import catalog, switch, versions
from mitmproxy_moesif.speedups.dispatch import PreparedAddonManager
from mitmproxy_moesif.speedups.replacing import INHERITED
from tests.speedups.test_dispatch import run_with_master
from tests.support import wire
from tests.support.client import Client, RawResponse, encode_request, exchange
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, echo

SWITCH = textwrap.dedent("""
    import logging
    from mitmproxy import ctx
    from mitmproxy_moesif.speedups import switch

    def running():
        assert switch.install(ctx.master) is None
        logging.info("switched")

    def done():
        switch.uninstall(ctx.master)
""")

RECORDER = textwrap.dedent("""
    import asyncio, json, os
    from mitmproxy import ctx, exceptions, http

    FLOW_HOOKS = ("requestheaders", "request", "responseheaders", "response", "error",
                  "websocket_start", "websocket_message", "websocket_end")
    OTHER_HOOKS = ("client_connected", "client_disconnected", "server_connect", "server_connected",
                   "server_disconnected", "server_connect_error", "next_layer", "update", "add_log")

    def note(who, hook, data):
        path = data.request.path if isinstance(data, http.HTTPFlow) else ""
        with open(os.environ["RECORD"], "a") as file:
            file.write(json.dumps([who, hook, path]) + "\\n")

    def recording(hook):
        def record(self, data):
            note(self.name, hook, data)
            if isinstance(data, http.HTTPFlow):
                self.act(hook, data)
        return record

    class Recorder:
        def act(self, hook, flow):
            pass

    for hook in FLOW_HOOKS + OTHER_HOOKS:
        if hook != "add_log":
            setattr(Recorder, hook, recording(hook))

    class Nested(Recorder):
        name = "nested"

    class Sync(Recorder):
        name = "sync"
        addons = [Nested()]

        def act(self, hook, flow):
            wish = flow.request.headers.get("x-wish", "")
            if wish == f"kill-{hook}":
                flow.kill()
            elif wish == f"answer-{hook}":
                flow.response = http.Response.make(418, b"teapot")
            elif wish == f"raise-{hook}":
                raise ValueError(f"wished for in {hook}")
            elif wish == f"halt-{hook}":
                raise exceptions.AddonHalt
            elif wish == f"intercept-{hook}":
                flow.intercept()
                asyncio.get_running_loop().call_later(0.05, flow.resume)
            elif wish == f"stream-{hook}":
                (flow.response or flow.request).stream = True

    class Async:
        name = "async"

        async def request(self, flow):
            note(self.name, "request", flow)
            if flow.request.headers.get("x-wish") == "wait":
                await asyncio.sleep(0.05)
            note(self.name, "request, later", flow)

        async def response(self, flow):
            note(self.name, "response", flow)

    class Commander:
        name = "commander"

        def request(self, flow):
            wish = flow.request.headers.get("x-wish", "")
            if wish == "add":
                ctx.master.addons.add(Added())
            elif wish == "remove":
                ctx.master.addons.remove(ctx.master.addons.get("added"))
            elif wish.startswith("scripts:"):
                ctx.options.update(scripts=wish.removeprefix("scripts:").split(","))

    class Added:
        name = "added"

        def requestheaders(self, flow):
            note(self.name, "requestheaders", flow)

        def add_log(self, entry):
            note(self.name, "add_log", None)

    addons = [Sync(), Async(), Commander()]
""")

LIVE = textwrap.dedent("""
    import json, os

    def response(flow):
        with open(os.environ["RECORD"], "a") as file:
            file.write(json.dumps(["live script GENERATION", "response", flow.request.path]) + "\\n")
""")

BODY = b'{"n": 1}'
FAULT = re.compile(r"Addon error: wished for in (\w+)")

type Calls = list[tuple[str, str, str]]


class Run:
    """One mitmdump with its records, and `first` as the first of its scripts, which logs that it has `switched`."""

    def __init__(
        self, folder: Path, upstream: str, stack: ExitStack, first: str | None = None, recorder: str = RECORDER
    ) -> None:
        self.folder = folder
        folder.mkdir()
        self.record = folder / "record"
        self.live = folder / "live.py"
        self.recorder = folder / "recorder.py"
        self.recorder.write_text(recorder)
        self.live.write_text(LIVE.replace("GENERATION", "1"))
        scripts = [self.recorder, self.live]
        if first is not None:
            (folder / "switch.py").write_text(first)
            scripts.insert(0, folder / "switch.py")
        self.scripts = scripts
        environment = {"RECORD": str(self.record)}
        self.proxy = stack.enter_context(Mitmdump(upstream, scripts=scripts, environment=environment, folder=folder))
        self.proxy.wait_for_output("switched" if first is not None else "listening")
        self.answers: list[RawResponse | None] = []

    def ask(self, method: str, path: str, wish: str = "", **kwargs: Any) -> None:
        self.answers.append(exchange(self.proxy.port, method, path, [("X-Wish", wish)], **kwargs))

    def calls(self) -> Calls:
        return [tuple(json.loads(line)) for line in self.record.read_text().splitlines()]

    def wait_for(self, call: tuple[str, str, str]) -> None:
        deadline = time.monotonic() + 10
        while call not in self.calls():
            assert time.monotonic() < deadline, f"{call} was not made"
            time.sleep(0.02)

    def reload(self) -> None:
        """Save the live script again, with a later time than before."""
        self.live.write_text(LIVE.replace("GENERATION", "2"))
        later = self.live.stat().st_mtime + 10
        os.utime(self.live, (later, later))
        deadline = time.monotonic() + 10
        while self.proxy.output.count(f"Loading script {self.live}") < 2:
            assert time.monotonic() < deadline, "the script was not loaded again"
            time.sleep(0.02)


def everything(run: Run) -> None:
    """Exchanges of all kinds, with addons that come, go, change places and misbehave in between."""
    run.ask("GET", "/plain")
    run.ask("POST", "/post", body=BODY)
    run.ask("POST", "/chunked", body=BODY, chunked=True)
    run.ask("HEAD", "/head")
    for hook in ("requestheaders", "request", "responseheaders", "response"):
        for wish in ("raise", "halt", "kill", "answer", "intercept"):
            run.ask("POST", f"/{wish}-{hook}", f"{wish}-{hook}", body=BODY)
    run.ask("POST", "/stream-request", "stream-requestheaders", body=BODY * 10_000)
    run.ask("POST", "/stream-response", "stream-responseheaders", body=BODY * 10_000)
    run.ask("POST", "/wait", "wait", body=BODY)
    run.ask("GET", "/closes")
    with Client(run.proxy.port) as client:
        for number in range(3):
            run.answers.append(client.exchange("POST", f"/kept{number}", body=BODY))
        client.send(encode_request("GET", "/pipelined1") + encode_request("GET", "/pipelined2"))
        run.answers += [client.read_response(), client.read_response()]
    websocket(run)
    run.ask("GET", "/adds", "add")
    run.ask("GET", "/with-added")
    run.ask("GET", "/removes", "remove")
    run.ask("GET", "/without-added")
    run.reload()
    run.ask("GET", "/reloaded")
    others = [script for script in run.scripts if script != run.live]
    run.ask("GET", "/unloads", "scripts:" + ",".join(map(str, others)))
    run.ask("GET", "/unloaded")
    run.ask("GET", "/reorders", "scripts:" + ",".join(map(str, [run.live, *others])))
    run.proxy.wait_for_output(f"Loading script {run.live}")
    run.ask("GET", "/last")
    run.wait_for(("sync", "response", "/last"))


def websocket(run: Run) -> None:
    with Client(run.proxy.port) as client:
        client.send(
            b"GET /websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        run.answers.append(client.read_head())
        client.send(b"\x81\x82\0\0\0\0hi" + b"\x88\x82\0\0\0\0" + struct.pack("!H", 1000))
        run.wait_for(("sync", "websocket_end", "/websocket"))


def answer_websocket(_request: RawRequest, connection: Connection) -> None:
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x05hello"
    )
    connection.hang()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """One run without and one with the measures, over the same exchanges."""
    with ExitStack() as stack:
        url = stack.enter_context(everything_upstream()).url
        folder = tmp_path_factory.mktemp("run")
        yield run_through(Run(folder / "stock", url, stack)), run_through(Run(folder / "prepared", url, stack, SWITCH))


def everything_upstream() -> ScriptedUpstream:
    upstream = ScriptedUpstream()
    upstream.handler = echo
    upstream.answer("/head", wire.response(200, [("Content-Length", "5")]))
    upstream.answer("/closes", lambda _, connection: connection.close())
    upstream.answer("/websocket", answer_websocket)
    return upstream


def run_through(run: Run) -> Run:
    everything(run)
    assert run.proxy.stop() == 0
    assert "mitmproxy has crashed" not in run.proxy.output
    return run


def of_exchanges(run: Run) -> Calls:
    """Without what says nothing of an exchange, and comes when it comes."""
    return [call for call in run.calls() if call[2]]


def test_the_same_hooks_in_the_same_order(runs: tuple[Run, Run]) -> None:
    stock, prepared = runs
    assert len(of_exchanges(stock)) > 400
    paths = {path for _, _, path in of_exchanges(stock)}
    assert {path for _, _, path in of_exchanges(prepared)} == paths
    for path in paths:
        expected = [call for call in of_exchanges(stock) if call[2] == path]
        assert [call for call in of_exchanges(prepared) if call[2] == path] == expected


def test_as_many_hooks_that_belong_to_no_exchange(runs: tuple[Run, Run]) -> None:
    stock, prepared = (sorted(call for call in run.calls() if not call[2] and call[1] != "add_log") for run in runs)
    assert prepared == stock


def test_the_same_answers(runs: tuple[Run, Run]) -> None:
    stock, prepared = runs
    assert prepared.answers == stock.answers
    assert len(stock.answers) > 40


def test_the_same_faults_are_logged(runs: tuple[Run, Run]) -> None:
    stock, prepared = (sorted(FAULT.findall(run.proxy.output)) for run in runs)
    assert prepared == stock
    assert set(stock) == {"requestheaders", "request", "responseheaders", "response"}


def test_the_deprecated_log_hook_is_called_while_an_addon_has_it(runs: tuple[Run, Run]) -> None:
    for run in runs:
        assert ("added", "add_log", "") in run.calls()


def test_an_addon_that_came_by_command_is_called_until_it_goes(runs: tuple[Run, Run]) -> None:
    for run in runs:
        called = {path for who, _, path in run.calls() if who == "added" and path}
        assert called >= {"/with-added", "/removes"}
        assert not called & {"/without-added", "/last"}


def test_a_live_script_is_called_in_its_last_form_until_it_is_unloaded(runs: tuple[Run, Run]) -> None:
    for run in runs:
        assert ("live script 1", "response", "/plain") in run.calls()
        assert ("live script 2", "response", "/reloaded") in run.calls()
        assert not [call for call in run.calls() if call[0].startswith("live") and call[2] == "/unloaded"]


def test_no_line_in_the_log_for_every_streamed_body(runs: tuple[Run, Run]) -> None:
    stock, prepared = runs
    assert "Streaming re" in stock.proxy.output
    assert "Streaming re" not in prepared.proxy.output


def test_the_head_and_the_body_of_a_small_streamed_message_go_out_together(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "switch.py").write_text(SWITCH)
    (tmp_path / "stream.py").write_text(
        "def requestheaders(flow): flow.request.stream = True\ndef responseheaders(flow): flow.response.stream = True\n"
    )
    upstream.handler = echo
    proxy = mitmdump(upstream.url, scripts=[tmp_path / "switch.py", tmp_path / "stream.py"])
    proxy.wait_for_output("switched")
    with Client(proxy.port) as client:
        client.exchange("POST", "/first", body=BODY)
        client.send(encode_request("POST", "/second", body=BODY))
        assert client.sock.recv(65_536).endswith(b"\r\n\r\n" + BODY)


def test_everything_is_put_back() -> None:
    async def scenario(master: Master) -> None:
        assert switch.install(master) is None
        assert isinstance(master.addons, PreparedAddonManager)
        assert all(vars(each.owner)[each.name] is each.ours for each in catalog.REPLACEMENTS)
        switch.uninstall(master)
        assert type(master.addons) is AddonManager
        assert type(master.options) is options.Options
        assert type(master._legacy_log_events) is log.LegacyLogEvents
        assert all(vars(each.owner).get(each.name, INHERITED) is each.stock for each in catalog.REPLACEMENTS)

    stock = mode_servers.ProxyConnectionHandler, http.Headers.get, http.Headers.get_all, Context.fork
    run_with_master(scenario)
    assert (mode_servers.ProxyConnectionHandler, http.Headers.get, http.Headers.get_all, Context.fork) == stock


def test_on_another_version_everything_stays_off_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(master: Master) -> None:
        monkeypatch.setattr(versions, "TESTED", ("1.0",))
        reason = switch.install(master)
        assert reason is not None
        assert "not tested with mitmproxy" in reason
        assert type(master.addons) is AddonManager
        switch.uninstall(master)

    monkeypatch.setattr(versions.untested, "__defaults__", ("99.0",))
    run_with_master(scenario)

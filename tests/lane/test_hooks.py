"""Addons that change a message whose other reading a peer has already: each side goes by what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lane.test_limits import with_addon
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, RawResponse
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

CHANGES = """
def change(hook):
    def wrapped(flow):
        name, _, path = flow.request.path.strip("/").partition("/")
        if flow.request.headers.get("X-Streams") == "yes" and hook == "requestheaders":
            flow.request.stream = True
        if flow.request.headers.get("X-Streams") == "yes" and hook == "responseheaders":
            flow.response.stream = True
        if name == hook:
            CHANGE[path](flow)
    return wrapped

def method(name):
    def set_method(flow):
        flow.request.method = name
    return set_method

def empty(flow):
    flow.request.content = b""

def strip(flow):
    flow.request.headers.pop("Connection", None)

def newer(flow):
    flow.request.http_version = "HTTP/1.1"

CHANGE = {
    "head": method("HEAD"),
    "get": method("GET"),
    "empty": empty,
    "strip": strip,
    "newer": newer,
    "length-before": lambda flow: flow.response.headers.insert(0, "Content-Length", "99"),
    "length-behind": lambda flow: flow.response.headers.add("Content-Length", "99"),
    "coding": lambda flow: flow.response.headers.set_all("Transfer-Encoding", ["chunked"]),
}
requestheaders, request = change("requestheaders"), change("request")
responseheaders, response = change("responseheaders"), change("response")
"""

JSON = b'{"ok": true}'


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoesifProxy]:
    with with_addon(upstream, tmp_path_factory.mktemp("changes"), CHANGES) as proxy:
        yield proxy


def request_of(method: str, path: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, "", ""]).encode()


@pytest.mark.parametrize("streams", ["yes", "no"])
@pytest.mark.parametrize("hook", ["requestheaders", "request", "responseheaders", "response"])
@pytest.mark.parametrize(("asked", "made"), [("GET", "head"), ("HEAD", "get")])
def test_what_follows_an_answers_head_goes_by_the_method_that_the_client_sent(
    hook: str, asked: str, made: str, streams: str, proxy: MoesifProxy
) -> None:
    with Client(proxy.port) as client:
        client.send(request_of(asked, f"/{hook}/{made}", f"X-Streams: {streams}") + request_of("GET", "/next"))
        first, second = client.read_response(asked), client.read_response()
    assert first is not None
    assert first.status == 200
    if second is None:  # the body that was announced was not to be had: nothing follows
        assert first.cut
        assert not first.body
    else:
        assert (first.body, second.status, second.body) == (JSON if asked == "GET" else b"", 200, JSON)


@pytest.mark.parametrize("path", ["length-before", "length-behind", "coding"])
def test_an_answer_whose_end_an_addon_made_ambiguous_is_the_last_on_its_connection(
    path: str, proxy: MoesifProxy
) -> None:
    with Client(proxy.port) as client:
        client.send(request_of("GET", f"/responseheaders/{path}") + request_of("GET", "/next"))
        assert client.stream.read().count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("streams", ["yes", "no"])
def test_a_request_that_an_addon_empties_behind_its_answer_leaves_a_connection_that_serves_on(
    streams: str, proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    used: list[Connection] = []

    def note(request: RawRequest, connection: Connection) -> None:
        used.append(connection)
        plain(request, connection)

    upstream.answer("/response/empty", note)
    with Client(proxy.port) as client:
        for _ in range(2):
            answer = client.exchange("POST", "/response/empty", [("X-Streams", streams)], b"hello")
            assert answer is not None
            assert answer.body == JSON
    assert used[0] is used[1]


@pytest.mark.parametrize(
    ("path", "fields", "version"),
    [("/request/strip", ["Connection: close"], "1.1"), ("/request/newer", [], "1.0")],
)
def test_a_client_that_asks_to_close_is_not_kept_whatever_is_asked_of_the_upstream(
    path: str, fields: list[str], version: str, proxy: MoesifProxy
) -> None:
    with Client(proxy.port, timeout=10) as client:
        client.send(request_of("GET", path, *fields, version=version))
        answer: RawResponse | None = client.read_response()
        assert answer is not None
        assert answer.body == JSON
        assert client.stream.read() == b""


def test_interim_answers_go_by_the_version_that_the_client_sent(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    upstream.answer("/requestheaders/newer", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + final)
    with Client(proxy.port, timeout=10) as client:
        client.send(request_of("GET", "/requestheaders/newer", version="1.0"))
        assert client.stream.read() == final


CANCELLED = """
import asyncio
import sys

async def %s(given):
    raise asyncio.CancelledError
"""

ENDS = """
import sys

def response(flow): sys.stdout.write("response\\n")
def error(flow): sys.stdout.write(f"error {flow.error}\\n")
"""


@pytest.mark.parametrize("hook", ["client_connected", "requestheaders", "request", "responseheaders", "response"])
def test_nothing_goes_on_where_a_hook_is_cancelled(
    hook: str, upstream: ScriptedUpstream, tmp_path: Path, collector: ScriptedCollector
) -> None:
    """It may have been about to refuse the request."""
    scripts = {"ends": ENDS, "cancelled": CANCELLED % hook}
    named: list[str] = []
    for name, code in scripts.items():
        (tmp_path / f"{name}.py").write_text(code)
        named += ["-s", str(tmp_path / f"{name}.py")]
    given = addon_options(collector, engine="fast", stream=False)
    with MoesifProxy(upstream.url, given, *named) as proxy:
        with Client(proxy.port, timeout=10) as client:
            client.send(request_of("POST", f"/cancelled-{hook}", "Content-Length: 2") + b"ab")
            try:
                assert client.stream.read() == b""
            except ConnectionResetError:
                assert hook == "client_connected"
        proxy.stop()
        told = [line for line in proxy.output.splitlines() if line.startswith(("response", "error"))]
        assert "Traceback" not in proxy.output
        assert exit_counts(proxy.output)["delivered"] == (hook != "client_connected")
    ends = {"client_connected": [], "response": ["response"]}
    assert told == ends.get(hook, ["error A hook was cancelled."])
    asked = [request for request in upstream.requests() if request.path == f"/cancelled-{hook}"]
    assert bool(asked) is hook.startswith("response")

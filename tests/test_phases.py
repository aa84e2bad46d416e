"""Exactly one event per exchange, with the status that the client saw, whichever hooks fire.

Each case walks one row of how mitmproxy calls its hooks. All run through one proxy; the events are told apart by path.
"""

from __future__ import annotations

import socket
import struct
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ADDON_SCRIPT, wire
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, encode_request, exchange
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

ANOTHER_ADDON = textwrap.dedent("""
    from mitmproxy import http

    def act(flow, phase):
        wish = flow.request.headers.get("x-wish", "")
        if wish == f"kill-{phase}":
            flow.kill()
        elif wish == f"answer-{phase}":
            flow.response = http.Response.make(418, b"from another addon", {"content-type": "text/plain"})

    def requestheaders(flow): act(flow, "requestheaders")
    def request(flow): act(flow, "request")
    def responseheaders(flow): act(flow, "responseheaders")
    def response(flow): act(flow, "response")
""")

BODY = b'{"n": 1}'
Case = Callable[[int, ScriptedUpstream], None]


def plain(method: str = "GET", path: str = "/", **kwargs: Any) -> Case:
    def run(port: int, _upstream: ScriptedUpstream) -> None:
        exchange(port, method, path, **kwargs)

    return run


def client_leaves(raw: bytes, *, after: Callable[[Client, ScriptedUpstream], object] = lambda *_: None) -> Case:
    def run(port: int, upstream: ScriptedUpstream) -> None:
        with Client(port) as client:
            client.send(raw)
            after(client, upstream)
            client.reset()

    return run


def partial_answer(_request: RawRequest, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
    connection.reset()


def endless_answer(_request: RawRequest, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
    connection.hang()


def upstream_that_answers_early(path: str) -> Callable[[RawRequest, Connection], bool]:
    def on_head(request: RawRequest, connection: Connection) -> bool:
        if request.path == path:
            connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            return True
        return False

    return on_head


def early_answer(port: int, _upstream: ScriptedUpstream) -> None:
    with Client(port) as client:
        client.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nsome")
        answer = client.read_response("POST")
        assert answer is not None
        assert answer.status == 413


def half_read(client: Client, _upstream: ScriptedUpstream) -> None:
    head = client.read_head()
    assert head is not None
    assert head.status == 200


def upstream_has(count_before: int) -> Callable[[Client, ScriptedUpstream], object]:
    return lambda _client, upstream: upstream.wait_for(count_before + 1)


def websocket(port: int, _upstream: ScriptedUpstream) -> None:
    with Client(port) as client:
        client.send(
            b"GET /websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = client.read_head()
        assert head is not None
        assert head.status == 101
        mask = b"\0\0\0\0"
        client.send(b"\x81\x82" + mask + b"hi", b"\x81\x82" + mask + b"ho")
        client.send(b"\x88\x82" + mask + struct.pack("!H", 1000))


def websocket_upstream(_request: RawRequest, connection: Connection) -> None:
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x05hello"
    )
    connection.hang()


def with_wish(wish: str, method: str = "GET", body: bytes | None = None) -> Case:
    return plain(method, f"/{wish}-{method}", headers=[("X-Wish", wish)], body=body)


CASES: dict[str, tuple[Case, int | None]] = {
    "/normal": (plain("GET", "/normal"), 200),
    "/post": (plain("POST", "/post", body=BODY), 200),
    "/chunked-request": (plain("POST", "/chunked-request", body=BODY, chunked=True), 200),
    "/chunked": (plain("GET", "/chunked"), 200),
    "/until-close": (plain("GET", "/until-close"), 200),
    "/head": (plain("HEAD", "/head"), 200),
    "/204": (plain("GET", "/204"), 204),
    "/304": (plain("GET", "/304"), 304),
    "/expect": (plain("POST", "/expect", headers=[("Expect", "100-continue")], body=BODY), 200),
    "/early": (early_answer, 413),
    "/closes": (plain("GET", "/closes"), 502),
    "/closes-post": (plain("POST", "/closes-post", body=BODY), 502),
    "/reset-mid-body": (plain("GET", "/reset-mid-body"), 200),
    "/bad-headers": (
        client_leaves(
            b"GET /bad-headers HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            after=lambda client, _: client.read_response("GET"),
        ),
        400,
    ),
    "/gone-mid-request": (
        client_leaves(b"POST /gone-mid-request HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf"),
        None,
    ),
    "/gone-waiting": (
        client_leaves(
            b"GET /gone-waiting HTTP/1.1\r\nHost: h\r\n\r\n",
            after=lambda _, upstream: upstream.wait_for(len(upstream.requests()) or 1),
        ),
        None,
    ),
    "/gone-mid-response": (
        client_leaves(b"GET /gone-mid-response HTTP/1.1\r\nHost: h\r\n\r\n", after=half_read),
        200,
    ),
    "/request-trailers": (
        client_leaves(
            b"POST /request-trailers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
            + wire.encode_chunks(b"abc", trailers=[("X-T", "1")])
        ),
        None,
    ),
    "/response-trailers": (
        client_leaves(b"GET /response-trailers HTTP/1.1\r\nHost: h\r\n\r\n", after=half_read),
        200,
    ),
    "/websocket": (websocket, 101),
    "/answer-requestheaders-GET": (with_wish("answer-requestheaders"), 418),
    "/answer-requestheaders-POST": (with_wish("answer-requestheaders", "POST", BODY), 418),
    "/answer-request-GET": (with_wish("answer-request"), 418),
    "/answer-response-GET": (with_wish("answer-response"), None),  # too late for a streamed answer: see below
    "/kill-requestheaders-GET": (with_wish("kill-requestheaders"), None),
    "/kill-requestheaders-POST": (with_wish("kill-requestheaders", "POST", BODY), None),
    "/kill-request-GET": (with_wish("kill-request"), None),
    "/kill-responseheaders-GET": (with_wish("kill-responseheaders"), None),
}


@pytest.fixture(scope="module", params=["ours-first", "ours-last"])
def events(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Event]]:
    """All events of one run over all cases, once for each order of the two scripts."""
    folder = tmp_path_factory.mktemp("phases")
    other = folder / "other.py"
    other.write_text(ANOTHER_ADDON)
    scripts: list[Path] = [ADDON_SCRIPT, other] if request.param == "ours-first" else [other, ADDON_SCRIPT]
    with ScriptedCollector() as collector, ScriptedUpstream() as upstream:
        _script(upstream)
        with Mitmdump(upstream.url, addon_options(collector), scripts=scripts, folder=folder) as proxy:
            for run, _ in CASES.values():
                run(proxy.port, upstream)
            collector.wait_for(len(CASES))
            assert proxy.stop() == 0
            counts = exit_counts(proxy.output)
            assert counts["captured"] == counts["delivered"] == len(CASES), proxy.output
            assert "a fault in" not in proxy.output
            assert "enable streaming at the same time" not in proxy.output
        yield collector.events()


def _script(upstream: ScriptedUpstream) -> None:
    upstream.on_head = upstream_that_answers_early("/early")
    upstream.answer("/chunked", wire.response(200, [], BODY, chunked=True))
    upstream.answer("/204", wire.response(204))
    upstream.answer("/304", wire.response(304))
    upstream.answer("/until-close", lambda _, connection: _until_close(connection))
    upstream.answer("/closes", lambda _, connection: connection.close())
    upstream.answer("/closes-post", lambda _, connection: connection.close())
    upstream.answer("/reset-mid-body", partial_answer)
    for path in ("/gone-waiting", "/request-trailers"):
        upstream.answer(path, lambda _, connection: connection.hang())
    upstream.answer("/gone-mid-response", endless_answer)
    upstream.answer(
        "/response-trailers",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
        + wire.encode_chunks(b"abc", trailers=[("X-T", "1")]),
    )
    upstream.answer("/websocket", websocket_upstream)


def _until_close(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
    connection.close()


def _path(event: Event) -> str:
    return "/" + str(event["request"]["uri"]).split("/", 3)[3]


@pytest.mark.parametrize("path", list(CASES))
def test_one_event_with_the_status_the_client_saw(path: str, events: list[Event]) -> None:
    found = [event for event in events if _path(event) == path]
    assert len(found) == 1
    response = found[0].get("response")
    if path == "/answer-response-GET":
        # The answer had been passed on before the other addon replaced it: what it set was seen by nobody.
        return
    assert (response["status"] if response else None) == CASES[path][1]


def test_no_exchange_has_two_ids_and_no_id_two_exchanges(events: list[Event]) -> None:
    assert len({event["transaction_id"] for event in events}) == len(events) == len(CASES)


def test_a_websocket_is_one_event_with_its_message_counts(events: list[Event]) -> None:
    (event,) = (event for event in events if _path(event) == "/websocket")
    counts = event["metadata"]["websocket"]
    assert counts["messages_from_client"] == 2
    assert counts["messages_from_server"] == 1
    assert counts["close_code"] == 1000


def test_a_cut_body_is_left_out_and_named(events: list[Event]) -> None:
    for path in ("/reset-mid-body", "/gone-mid-response"):
        (event,) = (event for event in events if _path(event) == path)
        assert "body" not in event["response"]
        assert event["metadata"]["body_omitted"] == {"response": "incomplete"}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/closes", "upstream_failed"),
        ("/gone-waiting", "client_disconnected"),
        ("/kill-request-GET", "killed"),
        ("/bad-headers", "request_refused"),
    ],
)
def test_why_it_failed_is_told_in_one_word(path: str, error: str, events: list[Event]) -> None:
    (event,) = (event for event in events if _path(event) == path)
    assert event["metadata"]["error"] == error


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_upstream_is_a_502(
    stream: bool, method: str, mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = mitmdump(f"http://127.0.0.1:{unused.getsockname()[1]}", addon_options(collector, stream=stream))
        answer = exchange(proxy.port, method, "/x", body=BODY if method == "POST" else None)
    assert answer is not None
    (event,) = collector.wait_for(1)
    assert answer.status == event["response"]["status"] == 502


@pytest.mark.parametrize(("method", "status"), [("POST", 413), ("GET", 502)])
def test_a_body_over_the_engines_limit(
    method: str,
    status: int,
    mitmdump: Callable[..., Mitmdump],
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    upstream.answer("/large", wire.response(200, [], b"x" * 5000))
    proxy = mitmdump(upstream.url, {**addon_options(collector), "body_size_limit": "1k"})
    body = b"x" * 5000 if method == "POST" else None
    answer = exchange(proxy.port, method, "/large", body=body)
    assert answer is not None
    (event,) = collector.wait_for(1)
    assert answer.status == event["response"]["status"] == status


def test_what_is_no_request_is_no_event(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector))
    for raw in (b"nonsense\r\n\r\n", b"GET /half HTTP/1.1\r\nHost", b""):
        with Client(proxy.port) as client:
            client.send(raw)
    exchange(proxy.port, "GET", "/real")
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["captured"] == 1


def test_saved_flows_are_one_event_each(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    flows = tmp_path / "flows"
    recorder = mitmdump(upstream.url, scripts=(), extra_args=["-w", str(flows)])
    exchange(recorder.port, "POST", "/saved", body=BODY)
    exchange(recorder.port, "GET", "/saved-too")
    assert recorder.stop() == 0
    reader = mitmdump(None, addon_options(collector), extra_args=["-nr", str(flows)], wait=False)
    assert reader.wait_exit() == 0
    events = collector.wait_for(2)
    assert [event["response"]["status"] for event in events] == [200, 200]
    assert events[0]["request"]["body"] == {"n": 1}
    assert events[0]["response"]["body"] == {"ok": True}


def test_under_way_at_the_end_of_the_proxy(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", lambda _, connection: connection.hang())
    proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=4000))
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        assert proxy.stop() == 0
    (event,) = collector.wait_for(1)
    assert event["metadata"]["error"] == "unfinished"
    assert "response" not in event
    assert exit_counts(proxy.output)["delivered"] == 1

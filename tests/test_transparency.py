"""The traffic does not notice: byte for byte what it is without the addon, also with a fault of ours at every step.

What is compared is both directions of a corpus of odd exchanges: the bytes that the upstream gets, and those that the
client gets, against a run of mitmdump with the same options and no addon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mitmproxy_moesif.config.proxy_defaults import TRANSPARENT
from tests.support import ADDON_SCRIPT, wire
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., Mitmdump]

HEAD = b"Host: api.example.com\r\n"
REQUESTS: dict[str, bytes] = {
    "plain": b"GET /plain HTTP/1.1\r\n" + HEAD + b"\r\n",
    "order-case-duplicates": b"GET /o HTTP/1.1\r\nhOsT: x\r\nX-B: 2\r\nx-a: 1\r\nX-B: 1\r\nACCEPT: */*\r\n\r\n",
    "path-bytes": b"GET /a%2Fb//c/./../d?x=%zz&y=[]|^&z=\xc3\xa9 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "method": b"pUrGe /m HTTP/1.1\r\n" + HEAD + b"\r\n",
    "body": b"POST /body HTTP/1.1\r\n" + HEAD + b"Content-Length: 11\r\n\r\nhello world",
    "chunked": b"POST /c HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + wire.encode_chunks(b"a", b"b"),
    "empty-post": b"POST /e HTTP/1.1\r\n" + HEAD + b"Content-Length: 0\r\n\r\n",
    "expect": b"POST /x HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    "http-1.0": b"GET /old HTTP/1.0\r\n" + HEAD + b"\r\n",
    "close": b"GET /close HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n",
    "head": b"HEAD /head HTTP/1.1\r\n" + HEAD + b"\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    "header-bytes": b"GET /h HTTP/1.1\r\n" + HEAD + b"X-Bytes: \xff\xfe\xc3\xa9\r\nX-Empty:\r\n\r\n",
    "mitm.it": b"GET /i HTTP/1.1\r\nHost: mitm.it\r\n\r\n",
    "identity": b"GET /id HTTP/1.1\r\n" + HEAD + b"Authorization: Bearer a.b.c\r\nCookie: a=1; b=2\r\n\r\n",
    "odd-answer": b"GET /odd HTTP/1.1\r\n" + HEAD + b"\r\n",
    "chunked-answer": b"GET /chunks HTTP/1.1\r\n" + HEAD + b"\r\n",
    "until-close": b"GET /until-close HTTP/1.1\r\n" + HEAD + b"\r\n",
    "204": b"GET /204 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "304": b"GET /304 HTTP/1.1\r\n" + HEAD + b"If-None-Match: x\r\n\r\n",
    "cut": b"GET /cut HTTP/1.1\r\n" + HEAD + b"\r\n",
    "large": b"POST /large HTTP/1.1\r\n" + HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
}


@dataclass
class Seen:
    """Both directions of one run, by name of the request."""

    upstream: dict[str, bytes]
    client: dict[str, bytes]


def script(upstream: ScriptedUpstream) -> None:
    odd = [
        ("X-Z", "1"),
        ("x-a", "2"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Via", "1.0 x"),
        ("X-Odd", "\xe9"),
    ]
    upstream.answer("/odd", wire.response(299, odd, b"odd", reason="Very odd indeed"))
    upstream.answer(
        "/chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + wire.encode_chunks(b"ab", b"c")
    )
    upstream.answer("/204", b"HTTP/1.1 204 No Content\r\n\r\n")
    upstream.answer("/304", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
    upstream.answer("/until-close", lambda _, connection: send_and(connection, b"HTTP/1.1 200 OK\r\n\r\nrest", "close"))
    upstream.answer("/cut", lambda _, c: send_and(c, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", "reset"))
    upstream.answer("/large", wire.response(200, [], b"y" * 300_000))


def send_and(connection: Connection, content: bytes, end: str) -> None:
    connection.send(content)
    getattr(connection, end)()


def run(port: int, upstream: ScriptedUpstream) -> Seen:
    seen = Seen({}, {})
    for name, raw in REQUESTS.items():
        before = len(upstream.requests())
        with Client(port) as client:
            client.send(raw)
            seen.client[name] = read_all(client, raw)
        requests: Sequence[RawRequest] = upstream.requests()[before:]
        # Chunk boundaries are the engine's: it joins what it buffers.
        seen.upstream[name] = b"".join(request.raw.partition(b"\r\n\r\n")[0] + request.body for request in requests)
    return seen


def read_all(client: Client, raw: bytes) -> bytes:
    """The bytes of the answer: interim ones, head, body."""
    method = raw.split(b" ", 1)[0].decode()
    content = b""
    while True:
        answer = client.read_response(method)
        if answer is None:
            return content
        content += answer.head + answer.body + repr(answer.cut).encode()
        if answer.status != 100:
            return content


@pytest.fixture(scope="module")
def bare() -> Seen:
    """What a run without the addon does."""
    with ScriptedUpstream() as upstream:
        script(upstream)
        with Mitmdump(upstream.url, {**TRANSPARENT, "http2": False}, scripts=()) as proxy:
            return run(proxy.port, upstream)


def with_addon(
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    scripts: Sequence[Path] = (ADDON_SCRIPT,),
    **parameters: object,
) -> tuple[Mitmdump, Seen]:
    script(upstream)
    options = addon_options(collector, disable_transaction_id=True, **parameters)  # type: ignore[arg-type]
    proxy = mitmdump(upstream.url, options, scripts=scripts)
    return proxy, run(proxy.port, upstream)


@pytest.mark.parametrize("stream", [True, False])
def test_both_directions_are_byte_for_byte_the_same(
    stream: bool, bare: Seen, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy, seen = with_addon(mitmdump, collector, upstream, stream=stream)
    for name in REQUESTS:
        assert seen.upstream[name] == bare.upstream[name], name
        if stream or name != "cut":
            assert without_streaming(name, seen.client[name]) == without_streaming(name, bare.client[name]), name
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["delivered"] == len(REQUESTS)


def without_streaming(name: str, content: bytes) -> bytes:
    """Buffered, the engine answers a cut body with 502; streamed, the client sees the cut: not the addon's doing."""
    return b"" if name == "cut" else content


FAULTS = {
    "opening": "capture.flow.open_exchange",
    "streaming": "capture.flow.stream_request",
    "governance": "capture.enforcement.Enforcer.at_headers",
    "header filter": "capture.flow.open_response",
    "body filter": "capture.tee.Tee.keep",
    "in flight": "capture.in_flight.InFlight.get",
    "snapshot": "capture.flow.snapshot",
    "queue": "delivery.client.DeliveryClient.put",
    "handing over": "delivery.protocol.from_exchange",
    "writing": "delivery.child.ChildProcess._write",
    "reading": "delivery.protocol.to_exchange",
    "taking": "delivery.pipeline.Pipeline.put",
    "attributes": "event.attributes.flatten",
    "identity": "event.attributes.identify",
    "mask and body": "event.build.render",
    "sampling": "governance.sampler.Sampler.__call__",
    "commit": "delivery.spool.store.Store.put",
    "spool": "delivery.spool.file.SpoolFile.append",
    "keeping": "delivery.spool.store.Store.maintain",
    "sending": "delivery.receivers.moesif.MoesifReceiver.send",
    "settling": "delivery.spool.store.Store.settle",
}

SABOTAGE = """
import importlib
import sys

# The delivery process gets the proxy's paths, and Python starts with what it finds there under this name.
sys.path.insert(0, {folder!r})

def broken(*args, **kwargs):
    raise RuntimeError("planted")

parts = {where!r}.split(".")
for split in range(len(parts) - 1, 0, -1):
    try:
        target = importlib.import_module(".".join(["mitmproxy_moesif", *parts[:split]]))
    except ImportError:
        continue
    for name in parts[split:-1]:
        target = getattr(target, name)
    assert hasattr(target, parts[-1])
    setattr(target, parts[-1], broken)
    break
"""


@pytest.mark.parametrize("where", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_at_any_step_does_not_reach_the_traffic(
    where: str,
    bare: Seen,
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    saboteur = tmp_path / "sitecustomize.py"
    saboteur.write_text(SABOTAGE.format(where=where, folder=str(tmp_path)))
    proxy, seen = with_addon(mitmdump, collector, upstream, [saboteur, ADDON_SCRIPT], shutdown_timeout=300)
    for name in REQUESTS:
        assert seen.upstream[name] == bare.upstream[name], name
        assert without_streaming(name, seen.client[name]) == without_streaming(name, bare.client[name]), name
    if where != "capture.tee.Tee.keep":  # of that the event tells
        proxy.wait_for_output("RuntimeError at sitecustomize.py")
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["delivered"] + counts["waiting"] + counts["dropped"]

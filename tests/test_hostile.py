"""Whatever comes in: no fault of ours, bounded memory, and an event or a counted cause for every exchange."""

from __future__ import annotations

import gzip
import random
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from tests.support import wire
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

EXCHANGES = 10_000
CLIENTS = 4
SEED = 20261122
MEMORY = 400_000_000

MEDIA_TYPES = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=B", "text/xml"]
CODINGS = ["", "gzip", "deflate", "br", "zstd", "gzip, gzip", "br, gzip", "nonsense", ", ,"]


@cache
def bomb() -> bytes:
    """A thousand million zeros, compressed; made piece by piece."""
    packer = zlib.compressobj(wbits=31)
    piece = bytes(1_000_000)
    return b"".join(packer.compress(piece) for _ in range(1000)) + packer.flush()


def odd_bytes(dice: random.Random, most: int) -> bytes:
    kinds: list[Callable[[], bytes]] = [
        lambda: dice.randbytes(dice.randrange(most)),
        lambda: b"[" * dice.randrange(most),
        lambda: b'{"a":' * dice.randrange(most // 5),
        lambda: b'{"password": "\xff\xfe", "\\ud800": 1e999, "n": -0, "a": [' + b"1," * 5 + b"1]}",
        lambda: b"password=1&%zz=%&=&&a[b][password]=" + dice.randbytes(9),
        lambda: b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\nx\r\n--B' + dice.randbytes(5),
        lambda: b"<a><password>x</password" + dice.randbytes(9),
        lambda: gzip.compress(dice.randbytes(200))[: dice.randrange(1, 200)],
        lambda: zlib.compress(b'{"a": 1}'),
        lambda: b"",
        lambda: b"\0" * dice.randrange(most),
    ]
    return dice.choice(kinds)()


REFUSED = bytes([*range(9), *range(10, 32), 127])
"""Controls, for which a head is refused."""


def odd_headers(dice: random.Random) -> list[tuple[bytes, bytes]]:
    def value() -> bytes:
        return dice.randbytes(dice.randrange(40)).translate(None, REFUSED if dice.random() < 0.98 else b"\r\n\0")

    names = [
        b"Authorization",
        b"X-Forwarded-For",
        b"Forwarded",
        b"traceparent",
        b"Cookie",
        b"Referer",
        b"X-Consumer-Id",
        b"X-Kong-Request-Id",
        b"X-Forwarded-Port",
        b"X-Forwarded-Host",
        b"X-Odd",
        b"x-odd",
    ]
    pairs = [(dice.choice(names), value()) for _ in range(dice.randrange(6))]
    pairs.append((b"Content-Type", dice.choice([value(), *map(str.encode, MEDIA_TYPES)])))
    pairs.append((b"Content-Encoding", dice.choice(CODINGS).encode()))
    if dice.random() < 0.002:
        pairs += [(b"X-Many-%d" % number, b"v") for number in range(5000)]
    return pairs


@dataclass
class Session:
    """One client's share; `answered` are the transaction ids of the exchanges that the upstream answered."""

    port: int
    seed: int
    count: int
    answered: set[str] = field(default_factory=set)
    attempted: int = 0

    def run(self) -> None:
        dice = random.Random(self.seed)
        client: Client | None = None
        for number in range(self.count):
            client = client or Client(self.port, timeout=30)
            path = f"/{self.seed}/{number}"
            self.attempted += 1
            try:
                reusable = self._exchange(client, path, dice)
            except (OSError, wire.CutShortError, ValueError):
                reusable = False
            if not reusable:
                client.close()
                client = None
        if client is not None:
            client.close()

    def _exchange(self, client: Client, path: str, dice: random.Random) -> bool:
        raw, whole = request_bytes(path, dice)
        client.send(raw)
        if not whole:
            return False
        answer = client.read_response("GET")
        if answer is None:
            return False
        if answer.get("x-upstream"):
            self.answered.add(answer.get("x-moesif-transaction-id") or "none")
        return not answer.cut and answer.get("connection") != "close"


def request_bytes(path: str, dice: random.Random) -> tuple[bytes, bool]:
    """A request, and whether an answer is to be waited for."""
    target = path.encode() + dice.choice([b"", b"?token=\xff\xfe&%zz", b"?" + b"a" * 5000, b"?token=1&token=2"])
    headers = [(b"Host", dice.choice([b"h", b"h:80", b"[::1]:8000", b"\xc3\xa9"])), *odd_headers(dice)]
    body = odd_bytes(dice, 3000)
    lines = b"%s %s HTTP/1.1\r\n" % (dice.choice([b"POST", b"GET", b"PUT", b"M-SEARCH"]), target)
    fate = dice.random()
    if fate < 0.01:
        return dice.randbytes(60) + b"\r\n\r\n", False
    if fate < 0.02:
        return lines + b"Host: h\r\nX-Nul: a\0b\r\n\r\n", True
    if fate < 0.03:
        return lines + b"Host: h\r\nContent-Length: 100\r\n\r\nshort", False
    if fate < 0.04:
        return lines + b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", True
    if fate < 0.05:
        return lines + b"Host: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True
    if fate < 0.0505:
        body = b"[" * 10_000_000
    if fate > 0.999:
        headers, body = [(b"Host", b"h"), (b"Content-Encoding", b"gzip")], bomb()
    if dice.random() < 0.5:
        framing = [(b"Transfer-Encoding", b"chunked")]
        body = wire.encode_chunks(body[: len(body) // 2], body[len(body) // 2 :])
    else:
        framing = [(b"Content-Length", b"%d" % len(body))]
    return lines + wire.encode_headers([*headers, *framing]) + b"\r\n" + body, True


def hostile_answer(request: RawRequest, connection: Connection) -> None:
    """An answer as odd as the requests; which one follows from the path."""
    dice = random.Random(request.path)
    fate = dice.random()
    if fate < 0.01:
        connection.close()
    elif fate < 0.02:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        connection.reset()
    elif fate < 0.03:
        connection.send(dice.randbytes(100) + b"\r\n\r\n")
        connection.close()
    else:
        body = bomb() if fate > 0.999 else odd_bytes(dice, 3000)
        headers = [(b"X-Upstream", b"1"), *odd_headers(dice)]
        if fate > 0.999:
            headers = [(b"X-Upstream", b"1"), (b"Content-Encoding", b"gzip")]
        status = dice.choice([200, 201, 404, 500, 599])
        connection.send(wire.response(status, headers, body, chunked=dice.random() < 0.5))


def run_sessions(port: int) -> list[Session]:
    sessions = [Session(port, SEED + number, EXCHANGES // CLIENTS) for number in range(CLIENTS)]
    threads = [threading.Thread(target=session.run) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sessions


def test_hostile_exchanges(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = hostile_answer
    options = addon_options(
        collector,
        request_body_masks=["password"],
        response_body_masks=["password"],
        request_query_masks=["token"],
        request_max_body_size_limit=11_000_000,
        company_id_header="x-odd",
    )
    proxy = mitmdump(upstream.url, {**options, "flow_detail": 0})
    sessions = run_sessions(proxy.port)
    peak = proxy.peak_memory()
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["delivered"] == len(collector.unique_ids())
    assert "a fault in" not in proxy.output
    assert "unexpected" not in proxy.output
    assert peak < MEMORY, f"{peak} bytes"
    assert len(collector.ids()) == len(collector.unique_ids())
    assert not set().union(*(session.answered for session in sessions)) - collector.unique_ids()
    assert sum(len(session.answered) for session in sessions) > EXCHANGES * 0.7

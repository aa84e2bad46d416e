"""The access log: a line on standard output for each request, made and written by a thread of its own.

The event loop only keeps what the line is made of. Where standard output is slower than the traffic, or blocked, lines
are left out and counted, and the log says how many. A line has no body and no more than events have: masked headers
are not there, masked parameters of a query are `*****`, and what a user hook could mask is `-`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import attributes_of
from mitmproxy_moesif.event.build import iso_time, masked_headers
from mitmproxy_moesif.event.exchange import NO_BODY, Exchange
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.masking import mask_host, mask_query
from mitmproxy_moesif.log import RateLimitedLog, describe, log
from mitmproxy_moesif.recent.notes import shown_method

MOST_LINES = 10_000
MOST_BYTES = 16_000_000
"""Of heads that wait to be written."""

GATHER_SECONDS = 0.05
"""Until lines are written: many in one go."""

CLOSE_SECONDS = 1.0
"""What writing the last lines may take."""

TELL_SECONDS = 60.0
"""Between two words on lines that are left out."""

PIECE = 4096
"""Bytes that a pipe takes as a whole: lines of several workers do not mix."""


class Access(NamedTuple):
    """What a line is made of. `exchange` is without its bodies; `size` is that of its answer's body."""

    instance: Instance
    exchange: Exchange
    fate: str
    size: int
    weight: int


class Line(NamedTuple):
    """What a line says, in the order of JSON's members. `fate` is `captured`, or why there is no event."""

    time: str
    client: str
    user: str | None
    method: str
    host: str | None
    path: str | None
    protocol: str
    status: int | None
    bytes: int
    ms: float
    referer: str | None
    user_agent: str | None
    instance: str
    fate: str
    blocked_by: str | None
    error: str | None
    transaction_id: str


class AccessLog:
    """Is told of each exchange that ended; `form` makes its line, `out` is a file descriptor."""

    def __init__(self, form: Callable[[Line, float], str], out: int = 1) -> None:
        self._form = form
        self._out = out
        self._waiting: deque[Access] = deque()
        # Each number is written by one thread: by the event loop's
        self._came = self._left_out = self._put = 0
        # and by the one that writes.
        self._taken = self._written = self._lost = self._told = 0
        self._ended = threading.Event()
        self._told_at = -TELL_SECONDS
        self._limited = RateLimitedLog()
        self._thread = threading.Thread(target=self._run, name="moesif-access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __call__(self, entry: PendingExchange, exchange: Exchange, fate: str) -> None:
        """On the event loop."""
        self._came += 1
        heads = exchange.request_headers + exchange.response_headers
        weight = 500 + 100 * len(heads) + len(exchange.target) + sum(map(len, chain.from_iterable(heads)))
        if len(self._waiting) >= MOST_LINES or self._put - self._taken + weight > MOST_BYTES:
            self._left_out += 1
            return
        self._put += weight
        bodiless = dataclasses.replace(exchange, request_body=NO_BODY, response_body=NO_BODY)
        self._waiting.append(Access(entry.instance, bodiless, fate, sent_bytes(entry), weight))

    def close(self) -> None:
        """Write what waits, as far as that is quick; what is left is told."""
        self._ended.set()
        self._thread.join(CLOSE_SECONDS)
        if left := self._came - self._written - self._told:
            log.warning("moesif-proxy: %d lines of the access log were not written at the end", left)

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._ended.wait(GATHER_SECONDS)
            self._write_waiting()
            self._tell()

    def _write_waiting(self) -> None:
        piece: list[bytes] = []
        while self._waiting:
            access = self._waiting.popleft()
            self._taken += access.weight
            line = self._line(access)
            if sum(map(len, piece)) + len(line) > PIECE:
                self._write(piece)
                piece = []
            piece.append(line)
        self._write(piece)

    def _line(self, access: Access) -> bytes:
        try:
            return self._form(line_of(access), access.exchange.started).encode() + b"\n"
        except Exception as error:  # noqa: BLE001 - one strange exchange must not end the log
            return f"{describe(error)}\n".encode()

    def _write(self, lines: list[bytes]) -> None:
        piece = b"".join(lines)
        try:
            while piece:
                try:
                    piece = piece[os.write(self._out, piece) :]
                except BlockingIOError:
                    select.select([], [self._out], [], 1.0)
            self._written += len(lines)
        except OSError as error:
            self._lost += len(lines)
            self._limited.error("write", "moesif-proxy: the access log cannot be written: %s", error.strerror)

    def _tell(self) -> None:
        """Once a minute how many lines are missing since the last time."""
        now = time.monotonic()
        if (count := self._left_out + self._lost - self._told) and now - self._told_at >= TELL_SECONDS:
            self._told += count
            self._told_at = now
            log.warning("moesif-proxy: %d lines of the access log are left out: they cannot be written so fast", count)


def sent_bytes(entry: PendingExchange) -> int:
    """Of the answer's body, as far as the upstream or we sent one."""
    if entry.response_tee is not None:
        return entry.response_tee.size
    response = entry.flow.response
    return len(response.raw_content or b"") if response is not None else 0


def line_of(access: Access) -> Line:
    instance, exchange, policy = access.instance, access.exchange, access.instance.policy
    facts = attributes_of(exchange, policy)
    shown = masked_headers(facts.request_headers, policy.request, policy.query_masks)
    hidden = instance.hides
    ended = exchange.started if exchange.ended is None else exchange.ended
    return Line(
        time=f"{iso_time(exchange.started)}Z",
        client=facts.address,
        user=None if hidden or facts.caller.user_id is None else cut(facts.caller.user_id, 100),
        method=cut(shown_method(instance, exchange.method), 20),
        host=None if hidden else cut(mask_host(exchange.authority, policy.query_masks), 100),
        path=None if hidden else cut(mask_query(text(exchange.target), policy.query_masks), 1200),
        protocol=exchange.http_version,
        status=exchange.status,
        bytes=access.size,
        ms=round((ended - exchange.started) * 1000, 1),
        referer=None if hidden or "referer" not in shown else cut(shown["referer"], 300),
        user_agent=None if hidden or "user-agent" not in shown else cut(shown["user-agent"], 300),
        instance=cut(instance.name, 100),
        fate=access.fate,
        blocked_by=exchange.blocked_by,
        error=None if exchange.metadata.get("error") is None else str(exchange.metadata["error"]),
        transaction_id=exchange.transaction_id,
    )


def cut(said: str, most: int) -> str:
    """So that a line fits a pipe; what is not printable takes six times its length."""
    return said[:most] if said.isascii() and said.isprintable() else said[: most // 6]


def as_json(line: Line, _started: float) -> str:
    return json.dumps(line._asdict())


def combined(line: Line, started: float) -> str:
    """As nginx's and Apache's `combined`, and after it the seconds it took, the instance and the fate."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(started))
    user, status = plain(line.user).replace(" ", "%20"), line.status or "-"
    request = f"{plain(line.method)} {plain(line.path)} {line.protocol}"
    return (
        f'{line.client} - {user} [{when}] "{request}" {status} {line.bytes} "{plain(line.referer)}" '
        f'"{plain(line.user_agent)}" {line.ms / 1000:.3f} {plain(line.instance)} {line.fate}'
    )


COLOURS = {2: "\033[32m", 3: "\033[36m", 4: "\033[33m", 5: "\033[31m"}


def short(line: Line, started: float) -> str:
    """For people at a terminal."""
    colour = COLOURS.get((line.status or 0) // 100, "")
    said = [
        time.strftime("%H:%M:%S", time.localtime(started)),
        f"{colour}{line.status or '---'}\033[0m" if colour else f"{line.status or '---'}",
        f"{plain(line.method)} {plain(line.path)}",
        f"{line.ms:g} ms",
        *([plain(line.user)] if line.user is not None else []),
        *([f"({line.error or line.fate})"] if line.error is not None or line.fate != "captured" else []),
    ]
    return "  ".join(said)


def plain(said: str | None) -> str:
    """On one line, without anything that a terminal would obey."""
    return "-" if said is None else json.dumps(said)[1:-1]


FORMS = {"combined": combined, "json": as_json, "short": short}

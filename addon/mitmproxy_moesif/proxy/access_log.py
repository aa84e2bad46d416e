"""The access log: a line on standard output for each request, formatted and written by its own thread.

The event loop only queues the data. If standard output is slower than the traffic, or blocked, lines are dropped and
counted, and the log reports how many. A line has no body and shows no more than events do: masked headers are left out,
masked query parameters are `*****`, and everything that a user hook could mask is `-`.
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
"""Maximum approximate memory of queued lines, in bytes."""

GATHER_SECONDS = 0.05
"""Seconds between two writes, so that many lines are written together."""

CLOSE_SECONDS = 1.0
"""Seconds that writing the last lines may take."""

TELL_SECONDS = 60.0
"""Seconds between two log messages about dropped lines."""

PIECE = 4096
"""Bytes that a pipe writes atomically, so that lines of several workers do not interleave."""


class Access(NamedTuple):
    """The data for a line. `exchange` has no bodies; `size` is that of the response body, `weight` the memory used."""

    instance: Instance
    exchange: Exchange
    fate: str
    size: int
    weight: int


class Line(NamedTuple):
    """The fields of a line, in the order of the JSON format. `fate` is `captured`, or why there is no event."""

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
    """Call it with each exchange that ended. `form` formats the line; `out` is a file descriptor."""

    def __init__(self, form: Callable[[Line, float], str], out: int = 1) -> None:
        self._form = form
        self._out = out
        self._waiting: deque[Access] = deque()
        # Each counter is changed by one thread only. By the event loop's thread:
        self._came = self._left_out = self._put = 0
        # By the writing thread:
        self._taken = self._written = self._lost = self._told = 0
        self._ended = threading.Event()
        self._told_at = -TELL_SECONDS
        self._limited = RateLimitedLog()
        self._thread = threading.Thread(target=self._run, name="moesif-access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __call__(self, entry: PendingExchange, exchange: Exchange, fate: str) -> None:
        """Queue a line. Called on the event loop."""
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
        """Write the queued lines for up to `CLOSE_SECONDS`; log how many are left."""
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
        except Exception as error:  # noqa: BLE001 - one bad exchange must not end the log
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
        """Log once a minute how many lines were dropped since the last time."""
        now = time.monotonic()
        if (count := self._left_out + self._lost - self._told) and now - self._told_at >= TELL_SECONDS:
            self._told += count
            self._told_at = now
            log.warning("moesif-proxy: %d lines of the access log are left out: they cannot be written so fast", count)


def sent_bytes(entry: PendingExchange) -> int:
    """The size of the response body in bytes."""
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
    """Shorten text so that a line fits into `PIECE`. Unprintable characters are escaped to six times their length."""
    return said[:most] if said.isascii() and said.isprintable() else said[: most // 6]


def as_json(line: Line, _started: float) -> str:
    return json.dumps(line._asdict())


def combined(line: Line, started: float) -> str:
    """The `combined` format of nginx and Apache, followed by the duration in seconds, the instance and the fate."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(started))
    user, status = plain(line.user).replace(" ", "%20"), line.status or "-"
    request = f"{plain(line.method)} {plain(line.path)} {line.protocol}"
    return (
        f'{line.client} - {user} [{when}] "{request}" {status} {line.bytes} "{plain(line.referer)}" '
        f'"{plain(line.user_agent)}" {line.ms / 1000:.3f} {plain(line.instance)} {line.fate}'
    )


COLOURS = {2: "\033[32m", 3: "\033[36m", 4: "\033[33m", 5: "\033[31m"}


def short(line: Line, started: float) -> str:
    """A short, coloured line for terminals."""
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
    """The text on one line, without control sequences for terminals."""
    return "-" if said is None else json.dumps(said)[1:-1]


FORMS = {"combined": combined, "json": as_json, "short": short}

"""The collector in trouble, a process of its own: `python -m tests.soak.collector SEED`.

Commands: `mode` (with `name` and `share`, the part of the requests that it holds for), `refuse`, `listen`, and
`report`, which writes to the file `to` what came since the last report and answers with totals.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from tests.soak.bodies import LARGEST_REQUEST, MASKED, POISON
from tests.soak.children import Command, serve_commands
from tests.support import wire
from tests.support.listener import Listener

Event = dict[str, Any]

SURE_SECONDS = 1.0
"""An answer that went out so soon after its request began was read in time."""


@dataclass(frozen=True)
class Mode:
    """How requests are answered; `limit` in bytes of JSON, `accept` although no answer is sent."""

    status: int = 201
    headers: tuple[tuple[str, str], ...] = ()
    limit: int = LARGEST_REQUEST
    delay: float = 0
    drip: float = 0
    how: str = "answer"
    accept: bool = False


MODES = {
    "plain": Mode(),
    "500": Mode(500),
    "502": Mode(502),
    "503": Mode(503),
    "504": Mode(504),
    "429": Mode(429, headers=(("Retry-After", "1"),)),
    "too large": Mode(limit=300_000),  # more than any single event has but the oversize ones
    "reset": Mode(how="reset"),
    "lost": Mode(how="drop", accept=True),
    "hang": Mode(how="hang"),
    "drip": Mode(drip=0.2),
    "slow": Mode(delay=0.5),
}


@dataclass
class Tally:
    """What came. `refused` tells with which status an event was refused that came alone; `again` holds ids that were
    accepted, and surely told so, more than once: with the times of both.
    """

    digests: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    again: list[tuple[str, float, float]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    requests: int = 0
    arrivals: int = 0
    leaks: int = 0

    def accept(self, events: list[Event]) -> None:
        for event in events:
            one, digest = event["transaction_id"], blake2b(orjson.dumps(event), digest_size=8).digest()
            self.arrivals += 1
            if one not in self.digests:
                self.digests[one] = digest
                self.fresh.append(one)
            elif self.digests[one] != digest:
                self.changed.append(one)

    def tell(self, events: list[Event], now: float) -> None:
        for event in events:
            one = event["transaction_id"]
            if one in self.told:
                self.again.append((one, self.told[one], now))
            self.told[one] = now

    def report(self) -> dict[str, Any]:
        """Lists since the last report; totals."""
        lists = {"fresh": self.fresh, "again": self.again, "changed": self.changed, "faults": self.faults}
        content = {**lists, "refused": self.refused}
        self.fresh, self.again, self.changed, self.faults, self.refused = [], [], [], [], {}
        return content

    def totals(self) -> Command:
        return {
            "unique": len(self.digests),
            "arrivals": self.arrivals,
            "requests": self.requests,
            "leaks": self.leaks,
        }


class SoakCollector:
    def __init__(self, seed: int) -> None:
        self.tally = Tally()
        self._dice = random.Random(f"collector {seed}")
        self._mode, self._share = MODES["plain"], 1.0
        self._lock = threading.Lock()
        self.listener = Listener(self._serve)

    def carry_out(self, command: Command) -> Command:
        match command["what"]:
            case "mode":
                self._mode, self._share = MODES[command["name"]], command["share"]
            case "refuse":
                self.listener.refuse()
            case "listen":
                self.listener.listen()
            case "report":
                with self._lock:
                    Path(command["to"]).write_text(json.dumps(self.tally.report()))
        with self._lock:
            return self.tally.totals()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection.makefile("rb")) as stream:
            while stream.peek(1):
                began = time.monotonic()
                head = wire.read_head(stream)
                if head is None:
                    return
                content = _content(head, wire.read_request_body(stream, head).content)
                mode = self._mode if self._dice.random() < self._share else MODES["plain"]
                if not self._converse(connection, head, content, mode, began):
                    return

    def _converse(
        self, connection: socket.socket, head: wire.Head, content: bytes | str, mode: Mode, began: float
    ) -> bool:
        """Decides and answers; whether the connection goes on."""
        if head.start.startswith(b"GET"):
            return self._answer(connection, self._document(head, mode), mode)
        events = self._events(content)
        status = self._status(events, content, mode)
        accepted = events if status < 300 and (mode.how == "answer" or mode.accept) else []
        with self._lock:
            self.tally.requests += 1
            self.tally.accept(accepted)
        goes_on = self._answer(connection, wire.response(status, mode.headers if status >= 300 else ()), mode)
        if goes_on and not mode.drip and time.monotonic() - began < SURE_SECONDS and not _is_gone(connection):
            with self._lock:
                self.tally.tell(accepted, time.monotonic())
        return goes_on

    def _events(self, content: bytes | str) -> list[Event]:
        """What a request holds; what is wrong with it is noted."""
        with self._lock:
            if isinstance(content, str):
                self.tally.faults.append(content)
                return []
            if MASKED.encode() in content:
                self.tally.leaks += 1
            try:
                events: list[Event] = orjson.loads(content)
                if not all(isinstance(event["transaction_id"], str) and event["request"]["uri"] for event in events):
                    raise TypeError("a field is empty")
            except (ValueError, TypeError, KeyError) as error:
                self.tally.faults.append(f"no batch of events: {type(error).__name__}: {error}")
                return []
            return events

    def _status(self, events: list[Event], content: bytes | str, mode: Mode) -> int:
        """What is wrong with a batch is wrong with it in all modes in which anything is accepted."""
        if mode.status >= 300 or not events:
            return mode.status if events else 400
        fault = 413 if len(content) > mode.limit else 400 if any(map(_is_poison, events)) else 0
        if fault and len(events) == 1 and (fault == 400 or len(content) > LARGEST_REQUEST):
            with self._lock:
                self.tally.refused[events[0]["transaction_id"]] = fault
        return fault or 201

    def _document(self, head: wire.Head, mode: Mode) -> bytes:
        if mode.status >= 300:
            return wire.response(mode.status, mode.headers)
        return wire.response(200, [("ETag", '"one"')], [] if b"/v1/rules" in head.start else {})

    def _answer(self, connection: socket.socket, content: bytes, mode: Mode) -> bool:
        closed = self.listener.is_closed
        if mode.delay and closed.wait(mode.delay):
            return False
        if mode.how == "hang":
            while connection.recv(65_536):
                pass
        elif mode.how == "reset":
            wire.reset(connection)
        if mode.how != "answer":
            return False
        for piece in [content] if not mode.drip else [bytes([byte]) for byte in content]:
            connection.sendall(piece)
            if mode.drip and closed.wait(mode.drip):
                return False
        return True


def _content(head: wire.Head, body: bytes) -> bytes | str:
    """A request's body without its encoding; a text says why it cannot be had."""
    try:
        return zlib.decompress(body) if head.get("content-encoding") == "deflate" else body
    except zlib.error as error:
        return f"the body cannot be inflated: {error}"


def _is_poison(event: Event) -> bool:
    return bool(event["request"]["uri"].partition("?")[0].endswith(POISON))


def _is_gone(connection: socket.socket) -> bool:
    """Whether the sender has given up: what it was sent last may not have been read."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> None:
    collector = SoakCollector(int(sys.argv[1]))
    serve_commands(collector.listener.port, collector.carry_out)
    collector.listener.close()


if __name__ == "__main__":
    main()

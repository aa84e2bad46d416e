"""A collector that does what a test tells it, and remembers all that it was sent.

    with ScriptedCollector() as collector:
        collector.enqueue(Answer(503), Answer(429, {"Retry-After": "1"}))    # the next two batches
        collector.script = lambda received: Answer(400) if ... else None     # then each batch; None is a plain 201
        ...
        collector.wait_for(100)                                              # so many different events accepted
        assert collector.unique_ids() == sent

As Moesif does, it keeps one event of each `transaction_id`. It has a parser of its own, so that a fault in the
package's collector does not hide one in its sender.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support import wire
from tests.support.closing import Closing
from tests.support.listener import Listener

Event = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a request is answered with, and how. A header that is None is left out where it would be there.

    `delay` seconds pass before the answer; with `drip` each of its bytes, headers too, comes that many seconds after
    the one before. `how`: "answer"; "drop" closes without an answer; "reset" does so with a TCP reset; "hang" never
    answers. `accept` tells whether the events count as arrived; None: where the answer is a 2xx.
    """

    status: int = 201
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0
    drip: float = 0
    how: Literal["answer", "drop", "reset", "hang"] = "answer"
    accept: bool | None = None

    @property
    def accepts(self) -> bool:
        return self.accept if self.accept is not None else self.how == "answer" and 200 <= self.status < 300


LOST_AFTER_ACCEPT = Answer(how="drop", accept=True)
"""The events arrive, the sender never learns it."""

NEVER = Answer(how="hang")


@dataclass(frozen=True)
class Received:
    """One request in full. `at` is monotonic seconds, `wall` is time.time(), both when its last byte had come.

    `headers` are in lower case; `body` is as it was on the wire, `content` without its Content-Encoding; `events` is
    what a POST holds. `fault` says why content or events could not be read.
    """

    at: float
    wall: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    content: bytes = b""
    events: tuple[Event, ...] = ()
    fault: str | None = None

    @property
    def ids(self) -> list[str]:
        return [event["transaction_id"] for event in self.events]


Script = Callable[[Received], Answer | None]


class ScriptedCollector(Closing):
    """A collector in threads, on a port of its own from creation to `close`. All methods may be called at any time.

    `script` decides about POSTs once the queue is used up, `document_script` about GETs; None from either is the plain
    answer. `refusing` starts it with its port closed.
    """

    def __init__(self, *, refusing: bool = False) -> None:
        self.script: Script = lambda received: None
        self.document_script: Script = lambda received: None
        self.config: Event = {}
        self.rules: list[Event] = []
        self.black_hole = False
        self._condition = threading.Condition()
        self._queue: deque[Answer] = deque()
        self._requests: list[Received] = []
        self._accepted: list[str] = []
        self._unique: dict[str, Event] = {}
        self._listener = Listener(self._serve, refusing=refusing)
        self.port = self._listener.port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    # --- what it shall do -------------------------------------------------------------------------------------------

    def enqueue(self, *answers: Answer) -> None:
        """The next POSTs get these, one each, before `script` is asked."""
        with self._condition:
            self._queue.extend(answers)

    def refuse(self, *, cut: bool = True) -> None:
        """Connections are refused from now on; open ones are cut unless told otherwise."""
        self._listener.refuse(cut=cut)

    def listen(self) -> None:
        """Takes connections again, on the same port."""
        self._listener.listen()

    def cut(self) -> None:
        """Ends every open connection."""
        self._listener.cut()

    # --- what it has got --------------------------------------------------------------------------------------------

    def requests(self) -> list[Received]:
        """Every request so far, in order of arrival, refused ones too."""
        with self._condition:
            return list(self._requests)

    def posts(self) -> list[Received]:
        return [received for received in self.requests() if received.method == "POST"]

    def ids(self) -> list[str]:
        """The ids of accepted events in order of arrival, each as often as it came."""
        with self._condition:
            return list(self._accepted)

    def unique_ids(self) -> set[str]:
        with self._condition:
            return set(self._unique)

    def events(self) -> list[Event]:
        """The accepted events in order of arrival, one for each id."""
        with self._condition:
            return list(self._unique.values())

    def wait_for(self, what: int | Callable[[ScriptedCollector], bool], timeout: float = 10) -> list[Event]:
        """Waits until so many different events were accepted, or until `what(self)` holds; returns `events()`.

        A condition is asked again after every request. Raises `AssertionError` when the time is over.
        """
        with self._condition:
            done = self._condition.wait_for(
                lambda: len(self._unique) >= what if isinstance(what, int) else what(self), timeout
            )
            assert done, (
                f"not within {timeout} s: {what if isinstance(what, int) else 'the condition'}; {self._state()}"
            )
            return list(self._unique.values())

    def _state(self) -> str:
        last = [(received.method, received.path, len(received.events)) for received in self._requests[-3:]]
        return f"{len(self._unique)} events of {len(self._requests)} requests, the last {last}"

    # --- one connection ---------------------------------------------------------------------------------------------

    def _serve(self, connection: socket.socket) -> None:
        if self.black_hole:
            self._listener.is_closed.wait()
            return
        with closing(connection.makefile("rb")) as stream:
            while head := wire.read_head(stream):
                if "100-continue" in (head.get("expect") or "").lower():
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                received = _received(head, wire.read_request_body(stream, head).content)
                answer = self._decide(received)
                if not self._carry_out(connection, received, answer):
                    return

    def _decide(self, received: Received) -> Answer:
        """Notes the request and what becomes of its events, before the sender can learn of it."""
        answer = self._scripted(received) or self.plain(received)
        with self._condition:
            self._requests.append(received)
            if answer.accepts:
                for event in received.events:
                    self._accepted.append(event["transaction_id"])
                    self._unique.setdefault(event["transaction_id"], event)
            self._condition.notify_all()
        return answer

    def _scripted(self, received: Received) -> Answer | None:
        if self.black_hole:
            return NEVER
        if received.method != "POST":
            return self.document_script(received)
        with self._condition:
            if self._queue:
                return self._queue.popleft()
        return self.script(received)

    def plain(self, received: Received) -> Answer:
        """What it answers without a script."""
        if not received.headers.get("x-moesif-application-id"):
            return Answer(401)
        match received.method, received.path:
            case "POST", "/v1/events" | "/v1/events/batch":
                return Answer(400, body=received.fault.encode()) if received.fault else Answer()
            case "GET", "/v1/config":
                return Answer(200, {"Content-Type": "application/json"}, json.dumps(self.config).encode())
            case "GET", "/v1/rules":
                return Answer(200, {"Content-Type": "application/json"}, json.dumps(self.rules).encode())
        return Answer(404)

    def _carry_out(self, connection: socket.socket, received: Received, answer: Answer) -> bool:
        """Sends the answer; whether the connection goes on."""
        closed = self._listener.is_closed
        if answer.delay and closed.wait(answer.delay):
            return False
        if answer.how == "hang":
            self._hang(connection)
        elif answer.how == "reset":
            wire.reset(connection)
        if answer.how != "answer":
            return False
        content = wire.response(answer.status, self._headers(received, answer), answer.body)
        if not answer.drip:
            connection.sendall(content)
        for byte in content if answer.drip else b"":
            connection.sendall(bytes([byte]))
            if closed.wait(answer.drip):
                return False
        return received.headers.get("connection", "").lower() != "close"

    def _headers(self, received: Received, answer: Answer) -> list[tuple[str, str]]:
        tags = {"X-Moesif-Config-Etag": _tag(self.config), "X-Moesif-Rules-Tag": _tag(self.rules)}
        if received.method == "GET":
            tags["ETag"] = tags["X-Moesif-Rules-Tag" if received.path.endswith("rules") else "X-Moesif-Config-Etag"]
        return [(name, value) for name, value in {**tags, **answer.headers}.items() if value is not None]

    def _hang(self, connection: socket.socket) -> None:
        """Until the sender gives up, or the test ends (which shuts the socket down)."""
        while connection.recv(65_536):
            pass


def refuse_events(fault: Callable[[Event], bool], status: int = 400) -> Script:
    """A script: every batch with an event of which `fault` holds is refused whole."""
    return lambda received: Answer(status) if any(map(fault, received.events)) else None


def refuse_larger(most: int, status: int = 413) -> Script:
    """A script: a request whose JSON has more than `most` bytes is refused."""
    return lambda received: Answer(status) if len(received.content) > most else None


def first_of(*scripts: Script) -> Script:
    """A script: the first of `scripts` that has an answer."""
    return lambda received: next((answer for script in scripts if (answer := script(received))), None)


def _received(head: wire.Head, body: bytes) -> Received:
    method, path, _ = head.start.decode("latin-1").split(" ", 2)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
    content, events, fault = b"", tuple[Event, ...](), None
    try:
        content = _decode(body, headers.get("content-encoding"))
        if method == "POST":
            events = _events(content)
    except (ValueError, LookupError, TypeError, zlib.error, EOFError, OSError) as error:
        fault = f"{type(error).__name__}: {error}"
    return Received(time.monotonic(), time.time(), method, path, headers, body, content, events, fault)


def _decode(body: bytes, encoding: str | None) -> bytes:
    if encoding is None:
        return body
    decoders: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    return decoders[encoding](body)


def _events(content: bytes) -> tuple[Event, ...]:
    parsed = json.loads(content)
    events = parsed if isinstance(parsed, list) else [parsed]
    for event in events:
        if not isinstance(event["transaction_id"], str) or not {"time", "uri", "verb"} <= event["request"].keys():
            raise ValueError("an event lacks a field")
    return tuple(events)


def _tag(document: object) -> str:
    return f'"{zlib.crc32(json.dumps(document, sort_keys=True).encode()):08x}"'

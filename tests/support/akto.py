"""An ingest service of Akto's that does what a test tells it, and remembers all that it was sent.

Like `ScriptedCollector` it has a parser of its own, and `forgotten` is written from what Akto's runtime does.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from tests.support import wire
from tests.support.closing import Closing
from tests.support.listener import Listener

Record = dict[str, str]
JSON = "application/json"


class ScriptedAkto(Closing):
    """`status` answers each call; while `held`, calls wait for `release`. A context manager."""

    def __init__(self, *, refusing: bool = False, held: bool = False) -> None:
        self.status = 200
        self.headers: list[Mapping[str, str]] = []
        self.calls: list[list[Record]] = []
        self.under_way = self.most_under_way = 0
        self._condition = threading.Condition()
        self._released = threading.Event()
        if not held:
            self._released.set()
        self._listener = Listener(self._serve, refusing=refusing)
        self.port = self._listener.port
        self.url = f"http://127.0.0.1:{self.port}"
        self.name = f"akto@127.0.0.1:{self.port}"

    def close(self) -> None:
        self._released.set()
        self._listener.close()

    def release(self) -> None:
        self._released.set()

    def refuse(self) -> None:
        self._listener.refuse()

    @property
    def records(self) -> list[Record]:
        with self._condition:
            return [record for call in self.calls for record in call]

    def wait_for(self, what: int | Callable[[ScriptedAkto], bool], timeout: float = 20) -> list[Record]:
        """Until so many records came, or `what(self)` holds; it is asked again at each call."""
        with self._condition:
            done = self._condition.wait_for(
                lambda: len(self.records) >= what if isinstance(what, int) else what(self), timeout
            )
            assert done, f"{len(self.records)} records in {len(self.calls)} calls"
        return self.records

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection.makefile("rb")) as stream:
            while head := wire.read_head(stream):
                body = wire.read_request_body(stream, head).content
                self._note(head, json.loads(body)["batchData"])
                while not self._released.wait(0.05):
                    if self._listener.is_closed.is_set():
                        return
                with self._condition:
                    self.under_way -= 1
                connection.sendall(wire.response(self.status, [], b"{}"))

    def _note(self, head: wire.Head, records: list[Record]) -> None:
        with self._condition:
            assert head.start.startswith(b"POST /api/ingestData "), head.start
            self.headers.append({name.decode().lower(): value.decode() for name, value in head.headers})
            self.calls.append(records)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            self._condition.notify_all()


def forgotten(record: Any) -> str | None:
    """Why Akto's runtime would forget a record; None where it keeps it."""
    headers = json.loads(record["requestHeaders"])
    payload = record["requestPayload"]
    if headers.get("content-type", JSON) == JSON and (
        not payload.strip() or (payload.startswith("{") and not payload.endswith("}"))
    ):
        return "requestPayload"
    maps = [headers, json.loads(record["responseHeaders"]), json.loads(record["tag"])]
    if not all(isinstance(value, str) for fields in (record, *maps) for value in fields.values()):
        return "a value is no string"
    if any(name != name.lower() for fields in maps[:2] for name in fields):
        return "a header's name is not in lower case"
    return None if record["time"].isdigit() and record["statusCode"].isdigit() else "time or statusCode"

"""A proxy that runs as a supervisor's worker.

The supervisor sends orders on the worker's standard input, one JSON object per line. The first `order` is `start`, with
`arguments` and file contents to use instead of files. The others are `end`, `abort` (end at once), `reload` (the
configuration), `answer` (an Admin API request) and `take` (a document with all changes made through the Admin API,
which only the supervisor saves). The end of the input means that the supervisor has died.

The worker writes messages to a pipe in the same format: `admin` (where its options put the Admin API and its state
file; it then waits for the first document), `file` (the `content` of a file in force), `ready`, `reading` with
`traffic` (every second, before a response, and at the end, then with `last`), `reloaded` or `refused`; and `to` with
the number of a completed order, with the `answer` and the resulting `document`, or with the `version` in force, or
with a `fault`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
from base64 import b64decode, b64encode
from contextlib import suppress
from select import select
from typing import Any

from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.admin.state import Document, StateError
from mitmproxy_moesif.config.files import configured_files
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.lifecycle import report
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.proxy.console import quiet_log
from mitmproxy_moesif.proxy.master import Proxy
from mitmproxy_moesif.proxy.serve import reload, run
from mitmproxy_moesif.workers.answering import Answering
from mitmproxy_moesif.workers.messages import Answer, Request

LARGEST_KEPT = 2**24
"""Maximum bytes of a file that the supervisor keeps, because it has to fit into one line."""

TELL_EVERY = 1.0
"""Seconds between two readings sent to the supervisor."""


class Supervised:
    """An `Observer` that reports to the supervisor through a pipe."""

    shared = True

    def __init__(self, pipe: int) -> None:
        self.announces = False
        self._pipe = pipe
        self._telling = threading.RLock()
        self._orders = bytearray()
        self._answering: Answering | None = None
        self._alone = False
        self._first: dict[str, Any] | None = None
        self._started = False
        self._files: dict[str, bytes] = {}
        self._final: Reading | None = None

    def arguments(self) -> list[str] | None:
        """Wait for the order to start. Returns the command line, or None if the supervisor has died."""
        while b"\n" not in self._orders:
            if not (said := os.read(sys.stdin.fileno(), 65_536)):
                return None
            self._orders += said
        first, _, rest = self._orders.partition(b"\n")
        self._orders = bytearray(rest)
        order = json.loads(first)
        configured_files.begin({name: b64decode(content) for name, content in order["kept"].items()}, self._keep)
        self.announces = order["first"]
        arguments: list[str] = order["arguments"]
        return arguments

    def _keep(self, name: str, content: bytes) -> None:
        """Thread-safe. Files are sent only once the proxy has started: before that, they may still make it fail."""
        if len(content) > LARGEST_KEPT:
            return
        with self._telling:
            if self._started:
                self._tell(file=name, content=b64encode(content).decode())
            else:
                self._files[name] = content

    def start(self, proxy: Proxy) -> None:
        self._proxy = proxy
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._obey)
        self._carry_out(b"")  # orders that arrived together with the order to start

    def _obey(self) -> None:
        if not select([sys.stdin], [], [], 0)[0]:
            return  # `read` has already consumed it
        said = os.read(sys.stdin.fileno(), 65_536)
        if not said:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            log.warning("moesif-proxy: the supervisor is gone: worker %d is ending", os.getpid())
            self._alone = True
            self._proxy.stop()
        self._carry_out(said)

    def _carry_out(self, said: bytes) -> None:
        *orders, self._orders = (self._orders + said).split(b"\n")
        for order in orders:
            self._do(json.loads(order))

    def _do(self, order: dict[str, Any]) -> None:
        match order["order"]:
            case "end":
                self._proxy.stop()
            case "abort":
                signal.raise_signal(signal.SIGTERM)
            case "reload":
                reload(self._proxy, self)
                self._tell(to=order["to"])
            case "answer":
                self._answer(order["to"], Request.from_json(order["request"]))
            case "take":
                self._take(order)

    def _answer(self, number: int, request: Request) -> None:
        def answered(answer: Answer, document: Document) -> None:
            self._tell_counts()  # first, so that they are never older than the response
            changed = {"document": document} if request.is_change else {}
            self._tell(to=number, answer=answer.to_json(), **changed)

        if self._answering is None:
            answered(Answer(404), {})
        else:
            self._answering.ask(request, answered)

    def _take(self, order: dict[str, Any]) -> None:
        def taken(fault: str | None) -> None:
            self._tell(to=order["to"], **({"version": order["version"]} if fault is None else {"fault": fault}))

        if self._answering is None:
            self._first = order
        else:
            self._answering.take(order["document"], taken)

    def listen(self, settings: Settings, operations: Operations) -> Answering:
        """Replaces a listener in this process: all workers share the supervisor's."""
        token = settings.admin_token.get_secret_value()
        self._tell(admin={"listen": settings.admin_listen, "token": token, "state": settings.admin_state})
        operations.restore(self)
        self._answering = Answering(operations)
        return self._answering

    def read(self) -> Document:
        """The document from the supervisor. This blocks the event loop, because nothing may be captured before."""
        while self._first is None and not self._alone:
            select([sys.stdin], [], [])  # uvloop makes reads of stdin non-blocking
            self._obey()
        if self._first is None:
            raise StateError("the supervisor is gone")
        if "fault" in self._first:
            raise StateError(self._first["fault"])
        self._tell(version=self._first["version"])
        document: Document = self._first["document"]
        return document

    def write(self, document: Document) -> None:
        """Does nothing: the supervisor gets the document with the response, and saves it."""

    def report(self, reading: Reading) -> None:
        """Write the exit line only if the supervisor has died: otherwise the supervisor writes the total."""
        self._final = reading
        if self._alone:
            report(reading)

    def ready(self) -> None:
        configured_files.started()
        with self._telling:
            self._started = True
            for name, content in self._files.items():
                self._keep(name, content)
            self._files = {}
        self._tell(ready=True)
        self._tell_regularly()

    def _tell_regularly(self) -> None:
        self._tell_counts()
        asyncio.get_running_loop().call_later(TELL_EVERY, self._tell_regularly)

    def reloaded(self, what: str) -> None:
        self._tell(reloaded=what)

    def refused(self, why: str) -> None:
        self._tell(refused=why)

    def ended(self) -> None:
        self._tell_counts(last=True)

    def _tell_counts(self, *, last: bool = False) -> None:
        with self._telling:  # so that an older reading is never sent after a newer one
            capture = self._proxy.capture
            if (reading := self._final or capture.reading()) is not None:
                self._tell(reading=dataclasses.asdict(reading), traffic=capture.traffic(), last=last)

    def _tell(self, **what: Any) -> None:
        """Send a message. Thread-safe. A pipe takes only a few kilobytes per write, and lines must not interleave."""
        line = memoryview(json.dumps(what).encode() + b"\n")
        with self._telling, suppress(OSError):  # the supervisor has died, which the end of stdin reports
            while line:
                line = line[os.write(self._pipe, line) :]


def main(arguments: list[str]) -> int:
    """Entry point for the supervisor; the argument is the pipe's file descriptor. Returns the exit code."""
    quiet_log()
    supervised = Supervised(int(arguments[0]))
    given = supervised.arguments()
    return run(parse(given), supervised) if given is not None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

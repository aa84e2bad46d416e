"""The Admin API of a worker: the same application as in a listener, but the supervisor sends the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

from tornado.httputil import HTTPConnection, HTTPHeaders, RequestStartLine, ResponseStartLine

from mitmproxy_moesif.admin.handlers import admin_app
from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.admin.source import SchemaViolation, UniqueViolation
from mitmproxy_moesif.admin.state import Document
from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.web.access import Address, Gate
from mitmproxy_moesif.web.server import STOP_SECONDS, ServerThread
from mitmproxy_moesif.workers.messages import Answer, Request

HOST = "127.0.0.1"
"""Requests look as if they came from this machine: the supervisor has already checked access."""

NOT_PASSED_ON = frozenset(("connection", "content-length", "date", "server", "transfer-encoding"))


class Answering(ServerThread):
    """Handles Admin API requests in its own thread, because a change may wait for the proxy's event loop.

    Changes are made one after another. Reads wait neither for changes nor for other reads: a filter may take seconds,
    which is too long for a health check.

    Callbacks are called in that thread, and never after `stop`.
    """

    def __init__(self, operations: Operations) -> None:
        super().__init__("moesif-admin", nullcontext())
        self._operations = operations
        self._app = admin_app(operations, Gate(Address(HOST, 0), None))
        self._turn = asyncio.Lock()
        self._stopped = False

    def ask(self, request: Request, answered: Callable[[Answer, Document], None]) -> None:
        """`answered` gets the response and the document of all changes so far."""

        async def ask() -> None:
            async with self._turn if request.is_change else nullcontext():
                try:
                    answer = await self._answer(request)
                except Exception as error:  # noqa: BLE001 - the supervisor waits for a response
                    log.error("moesif: a fault in the Admin API: %s", describe(error))
                    answer = Answer(500)
                answered(answer, self._operations.document())

        self._do(ask())

    def take(self, document: Document, taken: Callable[[str | None], None]) -> None:
        """Put a document in force; `taken` gets None, or the reason why it was rejected."""

        async def take() -> None:
            async with self._turn:
                try:
                    self._operations.take(document)
                except (SchemaViolation, UniqueViolation) as error:
                    taken(str(error))
                else:
                    taken(None)

        self._do(take())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        if self._stopped:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop.result())

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop the thread; a request in progress is dropped. `timeout` in seconds."""
        self._stopped = True
        super().stop(timeout)

    async def _answer(self, request: Request) -> Answer:
        recorded = Recorded()
        delegate = self._app.start_request(self, recorded)
        given = {"Host": HOST, "Content-Type": request.content_type, "Accept": request.accept}
        headers = HTTPHeaders({name: value for name, value in given.items() if value})
        headers["Content-Length"] = str(len(request.body))
        if (
            prepared := delegate.headers_received(RequestStartLine(request.method, request.path, "1.1"), headers)
        ) is not None:
            await prepared
        if not recorded.done.done():
            if (taken := delegate.data_received(request.body)) is not None:
                await taken
            delegate.finish()
        return await recorded.done


class Recorded(HTTPConnection):
    """A connection that records the application's response; `done` is the response."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._status = 500
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Does nothing: this connection is never closed during a response."""

    def write_headers(self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None) -> asyncio.Future[None]:
        assert isinstance(start_line, ResponseStartLine)
        self._status = start_line.code
        self._headers = [each for each in headers.get_all() if each[0].lower() not in NOT_PASSED_ON]
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        self._body += chunk
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def finish(self) -> None:
        self.done.set_result(Answer(self._status, tuple(self._headers), bytes(self._body)))

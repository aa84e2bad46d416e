"""The admin listener of a supervisor: judges who asks as that of a single process does, and relays what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from tornado.web import Application, RequestHandler, stream_request_body

from mitmproxy_moesif.admin.server import AdminServer, MakeApp
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import MAX_BODY_BYTES
from mitmproxy_moesif.workers.messages import Answer, Request

TOO_LARGE = f"a body may have {MAX_BODY_BYTES} bytes"

type Answering = Callable[[Request], Awaitable[Answer]]


def admin_server(listen: str, token: str | None, answer: Answering) -> AdminServer:
    """`answer` is called in the calling thread's event loop. Raises what `AdminServer` raises."""
    loop = asyncio.get_running_loop()

    async def ask(request: Request) -> Answer:
        async def answered() -> Answer:
            return await answer(request)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answered(), loop))

    def app(gate: Gate) -> Application:
        handlers = [(r"/.*", RelayHandler, {"gate": gate, "ask": ask})]
        return Application(handlers, log_function=lambda _handler: None)

    return AdminServer(listen, token, MakeApp(app))


@stream_request_body
class RelayHandler(RequestHandler):
    """Judges a request by its head, before its body is read."""

    def initialize(self, gate: Gate, ask: Answering) -> None:
        self._gate = gate
        self._ask = ask
        self._body = bytearray()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        request = self.request
        refusal = self._gate.refusal(request.method or "", request.path, request.host, request.headers)
        if refusal is not None:
            if refusal.status == 401:
                self.set_header("WWW-Authenticate", "Bearer")
            self._refuse(refusal.status, refusal.message)
        elif (length := request.headers.get("Content-Length", "0")).isdecimal() and int(length) > MAX_BODY_BYTES:
            self._refuse(413, TOO_LARGE)

    def data_received(self, chunk: bytes) -> None:
        """Keeps one byte too many at most, which tells that there were too many."""
        self._body += chunk[: MAX_BODY_BYTES + 1 - len(self._body)]

    async def get(self) -> None:
        if len(self._body) > MAX_BODY_BYTES:
            self._refuse(413, TOO_LARGE)
            return
        headers = self.request.headers
        method = "GET" if self.request.method == "HEAD" else self.request.method or ""
        content_type, accept = headers.get("Content-Type", ""), headers.get("Accept", "")
        answer = await self._ask(Request(method, self.request.uri or "/", content_type, accept, bytes(self._body)))
        self.set_status(answer.status)
        self.clear_header("Content-Type")
        for name, value in answer.headers:
            self.set_header(name, value)
        self.finish(answer.body or None)

    head = post = put = patch = delete = options = get

    def compute_etag(self) -> str | None:
        return None

    def _refuse(self, status: int, message: str) -> None:
        self.set_header("Connection", "close")  # Tornado closes it after an answer that did not wait for the body
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_status(status)
        self.finish(orjson.dumps({"message": message}) + b"\n")

"""The admin listener of a supervisor: judges who asks as that of a single process does, and relays what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado.web import Application

from mitmproxy_moesif.admin.server import AdminServer, MakeApp
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import GatedHandler
from mitmproxy_moesif.workers.messages import Answer, Request

type Answering = Callable[[Request], Awaitable[Answer]]


def admin_server(listen: str, token: str | None, answer: Answering) -> AdminServer:
    """`answer` is called in the calling thread's event loop. Raises what `AdminServer` raises."""
    loop = asyncio.get_running_loop()

    async def ask(request: Request) -> Answer:
        async def answered() -> Answer:
            return await answer(request)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answered(), loop))

    def app(gate: Gate) -> Application:
        return Application([(r"/.*", RelayHandler, {"ask": ask})], gate=gate, log_function=lambda _handler: None)

    return AdminServer(listen, token, MakeApp(app))


class RelayHandler(GatedHandler):
    """Whatever is asked, once the gate has let it pass."""

    def initialize(self, ask: Answering) -> None:
        self._ask = ask

    async def get(self) -> None:
        body, headers = self.body(), self.request.headers
        method = "GET" if self.request.method == "HEAD" else self.request.method or ""
        content_type, accept = headers.get("Content-Type", ""), headers.get("Accept", "")
        answer = await self._ask(Request(method, self.request.uri or "/", content_type, accept, body))
        self.set_status(answer.status)
        self.clear_header("Content-Type")
        for name, value in answer.headers:
            self.set_header(name, value)
        self.finish(answer.body or None)

    head = post = put = patch = delete = options = get

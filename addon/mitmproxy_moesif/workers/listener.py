"""The supervisor's admin listener: checks access like that of a single process, and relays requests to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

from tornado.web import Application

from mitmproxy_moesif.admin.exchanges import Query, stream
from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import GatedHandler
from mitmproxy_moesif.workers.messages import Answer, Request

type Answering = Callable[[Request], Coroutine[Any, Any, Answer]]


def admin_server(listen: str, token: str | None, answer: Answering) -> AdminServer:
    """`answer` is called on the event loop of the calling thread. Raises the same errors as `AdminServer`."""
    loop = asyncio.get_running_loop()

    async def ask(request: Request) -> Answer:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer(request), loop))

    def app(gate: Gate) -> Application:
        paths = ((r"/exchanges/stream/?", RelayStreamHandler), (r"/.*", RelayHandler))
        handlers = [(path, handler, {"ask": ask}) for path, handler in paths]
        return Application(handlers, gate=gate, streams=set(), log_function=lambda _handler: None)

    return AdminServer(listen, token, app, "status, metrics and Admin API of all workers")


class RelayHandler(GatedHandler):
    """Relays every request that passes the gate."""

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


class RelayStreamHandler(RelayHandler):
    """Streams the exchanges of all workers."""

    async def get(self) -> None:
        await stream(self, self._newest)

    async def _newest(self, query: Query) -> bytes | None:
        answer = await self._ask(Request("GET", f"/exchanges?{urlencode(query)}"))
        return answer.body if answer.status == 200 else None

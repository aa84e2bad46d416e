"""A streamed body: passed on chunk by chunk, and kept up to a limit."""

from __future__ import annotations

import weakref

from mitmproxy import http

from mitmproxy_moesif.event.exchange import Payload


class Tee:
    """A stream callable that passes every chunk on at once and keeps a copy up to `limit` bytes."""

    __slots__ = ("chunks", "ended", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.ended = False

    def __call__(self, data: bytes) -> bytes:
        # An exception here would hang the body ("mitmproxy has crashed!"): whatever happens, the data goes on.
        try:
            self.keep(data)
        except Exception:  # noqa: BLE001
            self.size = self.limit + 1
        return data

    def keep(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            self.chunks = []
        elif data:
            self.chunks.append(data)
        else:
            self.ended = True

    def payload(self) -> Payload:
        if self.size > self.limit:
            return Payload((), "too_large", self.size)
        return Payload(self.chunks, None if self.ended else "incomplete")


class RequestTee(Tee):
    """A request's tee. It is false once another addon has answered the request before any of its body came.

    mitmproxy crashes if it streams a request that has its answer; it tests `request.stream` after all addons have run.
    """

    __slots__ = ("_flow",)

    def __init__(self, limit: int, flow: http.HTTPFlow) -> None:
        super().__init__(limit)
        self._flow = weakref.ref(flow)  # the flow holds this tee

    def __bool__(self) -> bool:
        flow = self._flow()
        return self.size > 0 or flow is None or flow.response is None

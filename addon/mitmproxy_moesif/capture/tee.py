"""Forwards a streamed body chunk by chunk and keeps a copy up to a limit."""

from __future__ import annotations

import weakref

from mitmproxy import http

from mitmproxy_moesif.event.exchange import Payload


class Tee:
    """A stream callable that forwards every chunk at once and keeps the body if it is at most `limit` bytes."""

    __slots__ = ("chunks", "ended", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.ended = False

    def __call__(self, data: bytes) -> bytes:
        # An exception here would make the body hang ("mitmproxy has crashed!"), so the data is always forwarded.
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
    """A request's tee. It is false if another addon answered the request before any of its body arrived.

    mitmproxy crashes if it streams a request that has a response. It tests `request.stream` after all addons have run.
    """

    __slots__ = ("_flow",)

    def __init__(self, limit: int, flow: http.HTTPFlow) -> None:
        super().__init__(limit)
        self._flow = weakref.ref(flow)  # the flow holds this tee

    def __bool__(self) -> bool:
        flow = self._flow()
        return self.size > 0 or flow is None or flow.response is None

"""An upstream for trying the proxy: it responds to any method and path with the request itself.

    any path             200 {method, path, args, headers, body, body_encoding}
    /status/<code>       that status, 200 to 599
    /delay/<ms>          the echo after this many milliseconds, at most 60,000
    /bytes/<n>           n random bytes, at most 10,000,000
    /stream/<n>          n lines of JSON, each in its own chunk, at most 1,000
    /sse?n=&interval_ms= n server-sent events (default 10, at most 1,000), at this interval in ms (default 100, at most
                         10,000)

`path` is the path as sent, without the query. `args` and `headers` map a name to its value, or to a list of values if
it is repeated. `body` is the JSON value of a JSON body (`body_encoding` "json"), else its text ("text") or Base64
("base64"); null without a body. A body over 10,000,000 bytes gets 413, a number out of range 400.

Tornado's request handlers support only a fixed set of methods and respond to others with 405, so this uses its HTTP
server directly.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http.client import responses
from typing import Any
from urllib.parse import parse_qsl

import orjson
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

MAX_BODY = 10_000_000
MAX_DELAY_MS = 60_000
MAX_PIECES = 1000
MAX_INTERVAL_MS = 10_000
_BLOCK = 65_536


@dataclass(slots=True)
class EchoRequest:
    """A whole request. A body above the limit is truncated, with `too_large` set."""

    method: str
    path: str
    query: str
    headers: HTTPHeaders
    body: bytearray = field(default_factory=bytearray)
    too_large: bool = False

    def take(self, chunk: bytes) -> None:
        self.too_large = self.too_large or len(self.body) + len(chunk) > MAX_BODY
        if not self.too_large:
            self.body += chunk


@dataclass(frozen=True, slots=True)
class EchoAnswer:
    """A response. `pieces` in place of `body` are sent one by one as they come, without a known length."""

    status: int = 200
    media_type: str = "application/json"
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None


def reply(request: EchoRequest) -> EchoAnswer | Awaitable[EchoAnswer]:
    """The response to `request`; slow ones are awaitable, or come in pieces."""
    if request.too_large:
        return _refusal(413, f"a body may have at most {MAX_BODY} bytes")
    first, _, rest = request.path.removeprefix("/").partition("/")
    try:
        if first in _WITH_NUMBER and rest:
            bounds, answer = _WITH_NUMBER[first]
            return answer(request, _whole(f"/{first}/", rest, *bounds))
        if first == "sse" and not rest:
            return _events(request)
    except ValueError as error:
        return _refusal(400, str(error))
    return _echo(request)


def _echo(request: EchoRequest) -> EchoAnswer:
    body, encoding = _readable(bytes(request.body))
    shown = {
        "method": request.method,
        "path": request.path,
        "args": _grouped(parse_qsl(request.query, keep_blank_values=True, errors="replace")),
        "headers": _grouped(_utf8(name, value) for name, value in request.headers.get_all()),
        "body": body,
        "body_encoding": encoding,
    }
    return EchoAnswer(body=orjson.dumps(shown))


async def _delayed(request: EchoRequest, delay_ms: int) -> EchoAnswer:
    await asyncio.sleep(delay_ms / 1000)
    return _echo(request)


def _status(_request: EchoRequest, code: int) -> EchoAnswer:
    return EchoAnswer(status=code, body=b"" if code in (204, 304) else orjson.dumps({"status": code}))


def _bytes(_request: EchoRequest, length: int) -> EchoAnswer:
    return EchoAnswer(media_type="application/octet-stream", body=os.urandom(length))


def _stream(_request: EchoRequest, lines: int) -> EchoAnswer:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(lines):
            yield orjson.dumps({"number": number}) + b"\n"

    return EchoAnswer(media_type="application/x-ndjson", pieces=pieces())


def _events(request: EchoRequest) -> EchoAnswer:
    args = dict(parse_qsl(request.query))
    count = _whole("n=", args.get("n", "10"), 0, MAX_PIECES)
    interval_ms = _whole("interval_ms=", args.get("interval_ms", "100"), 0, MAX_INTERVAL_MS)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            if number:
                await asyncio.sleep(interval_ms / 1000)
            yield f'id: {number}\nevent: message\ndata: {{"number": {number}}}\n\n'.encode()

    return EchoAnswer(media_type="text/event-stream", pieces=pieces())


def _refusal(status: int, reason: str) -> EchoAnswer:
    return EchoAnswer(status=status, body=orjson.dumps({"error": reason}))


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise ValueError(f"{name} takes a whole number from {low} to {high}")
    return int(text)


def _readable(body: bytes) -> tuple[object, str | None]:
    """The body as a JSON value, and its encoding."""
    if not body:
        return None, None
    try:
        orjson.loads(body)
        return orjson.Fragment(body), "json"  # unchanged: keeps numbers exact, and works at any depth
    except orjson.JSONDecodeError:
        pass
    try:
        return body.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"


def _utf8(name: str, value: str) -> tuple[str, str]:
    """Tornado decodes headers as Latin-1; decode them as UTF-8 instead."""
    return name, value.encode("latin-1", "replace").decode("utf-8", "replace")


def _grouped(pairs: Any) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


# Path, range of its number, response.
_WITH_NUMBER: dict[str, tuple[tuple[int, int], Callable[[EchoRequest, int], EchoAnswer | Awaitable[EchoAnswer]]]] = {
    "status": ((200, 599), _status),
    "delay": ((0, MAX_DELAY_MS), _delayed),
    "bytes": ((0, MAX_BODY), _bytes),
    "stream": ((0, MAX_PIECES), _stream),
}


class EchoService(HTTPServerConnectionDelegate):
    """Pass it to Tornado's `HTTPServer`. `stop` ends responses in progress."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:  # noqa: ARG002
        return _Conversation(request_conn, self._tasks)

    async def stop(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Conversation(HTTPMessageDelegate):
    """Receives one request, then sends the response in its own task."""

    def __init__(self, connection: HTTPConnection, tasks: set[asyncio.Task[None]]) -> None:
        self._connection = connection
        self._tasks = tasks

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, RequestStartLine)
        path, _, query = start_line.path.partition("?")
        self._request = EchoRequest(start_line.method, path, query, headers)

    def data_received(self, chunk: bytes) -> None:
        self._request.take(chunk)

    def finish(self) -> None:
        task = asyncio.create_task(self._answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self) -> None:
        try:
            answer = reply(self._request)
            if not isinstance(answer, EchoAnswer):
                answer = await answer
            await self._send(answer)
            self._connection.finish()
        except StreamClosedError:
            pass  # the client has disconnected

    async def _send(self, answer: EchoAnswer) -> None:
        start = ResponseStartLine("HTTP/1.1", answer.status, responses.get(answer.status, "Unknown"))
        headers = HTTPHeaders()
        if answer.status not in (204, 304):
            headers["Content-Type"] = answer.media_type
            if answer.pieces is None:
                headers["Content-Length"] = str(len(answer.body))
        await self._connection.write_headers(start, headers)
        if self._request.method == "HEAD":
            return
        for at in range(0, len(answer.body), _BLOCK):
            await self._connection.write(answer.body[at : at + _BLOCK])
        if answer.pieces is not None:
            async for piece in answer.pieces:
                await self._connection.write(piece)

"""The newest exchanges: `GET /exchanges`, `/exchanges/{transaction_id}`, `/exchanges/stream` and `/stats`.

The stream is server-sent events: `exchange` for each new or changed one, as a row of the list, and `left_out` if more
changed at once than are sent. It starts with changes after the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from tornado.iostream import StreamClosedError

from mitmproxy_moesif.admin.handling import AdminHandler, ReadHandler
from mitmproxy_moesif.admin.source import NotFound
from mitmproxy_moesif.recent import terms
from mitmproxy_moesif.recent.asked import ANSWER_SECONDS
from mitmproxy_moesif.web.handlers import JsonHandler

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_NUMBER = 2**53
POLL_SECONDS = 0.25
"""Interval between polls for changes while a client follows."""

ALIVE_SECONDS = 15.0
"""Silence in a stream after which a comment is sent to show that it is alive."""

MOST_STREAMS = 16
"""Concurrent streams."""

NOTHING_KEPT = "no exchanges are kept (moesif_recent is 0), or delivery does not answer now"

type Query = Mapping[str, Any]
type Ask = Callable[[Query], Awaitable[bytes | None]]


class InvalidQueryError(ValueError):
    """An invalid parameter; the text is one line."""


class RecentHandler(AdminHandler):
    """Responds with stored exchanges, or an error."""

    async def ask(self, query: Query) -> bytes | None:
        future = asyncio.wrap_future(self.source.recent(query))
        with suppress(TimeoutError):
            return await asyncio.wait_for(future, ANSWER_SECONDS)
        return None

    async def answer_query(self, query: Query) -> None:
        answer = await self.ask(query)
        if answer is None:
            self.refuse(503, NOTHING_KEPT)
        elif answer == b"null":
            raise NotFound
        else:
            # Not redacted again: it is already masked, and foreign bodies have fields of any name.
            self.set_header("Content-Type", self.media_type)
            self.finish(answer + b"\n")


def query_of(handler: JsonHandler, *numbers: str) -> Query | None:
    """`filter` and these numbers from the URL; None if the request was refused."""
    names = handler.request.query_arguments
    try:
        return read_query({name: handler.get_query_arguments(name, strip=False) for name in names}, *numbers)
    except InvalidQueryError as error:
        handler.refuse(400, str(error))
        return None


def read_query(given: Mapping[str, list[str]], *numbers: str) -> dict[str, Any]:
    """`filter` and these numbers, from a URL's parameters. Raises `InvalidQueryError`."""
    known = ("filter", *numbers)
    if unknown := sorted(set(given) - set(known)):
        raise InvalidQueryError(f"{unknown[0]}: there is no such parameter; there are {', '.join(known)}")
    wanted = given.get("filter", [""])[-1]
    try:
        terms.parse(wanted)
    except terms.FilterError as error:
        raise InvalidQueryError(f"filter: {error}") from None
    return {"filter": wanted} | {name: _number(name, given[name][-1]) for name in numbers if name in given}


def _number(name: str, text: str) -> int:
    low, high = (1, MAX_LIMIT) if name == "limit" else (0, MAX_NUMBER)
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and low <= int(text) <= high):
        raise InvalidQueryError(f"{name}: a whole number from {low} to {high}")
    return int(text)


class ExchangesHandler(RecentHandler, ReadHandler):
    async def get(self) -> None:
        if (query := query_of(self, "limit", "before", "changed_after")) is not None:
            await self.answer_query({"limit": DEFAULT_LIMIT, **query})


class ExchangeHandler(RecentHandler, ReadHandler):
    async def get(self, transaction_id: str) -> None:
        await self.answer_query({"id": transaction_id})


class StatsHandler(RecentHandler, ReadHandler):
    async def get(self) -> None:
        if (query := query_of(self)) is not None:
            await self.answer_query({"stats": True, **query})


class StreamHandler(RecentHandler):
    async def get(self) -> None:
        await stream(self, self.ask)


async def stream(handler: JsonHandler, ask: Ask) -> None:
    """Send changes until the client disconnects; refuses above `MOST_STREAMS`. Uses `streams` of the app's settings."""
    streams: set[JsonHandler] = handler.settings["streams"]
    if (query := query_of(handler, "changed_after")) is None:
        return
    if len(streams) >= MOST_STREAMS:
        handler.refuse(503, f"{MOST_STREAMS} clients are already following")
        return

    async def send(data: bytes) -> None:
        handler.write(data)
        await handler.flush()

    streams.add(handler)
    handler.set_header("Content-Type", "text/event-stream")
    try:
        with suppress(StreamClosedError, asyncio.CancelledError):  # the client has disconnected, or the listener ends
            await follow(ask, query, send)
    finally:
        streams.discard(handler)


async def follow(ask: Ask, query: Query, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send each change, until `send` raises or queries are no longer answered."""
    since = query.get("changed_after")
    if since is None:
        answer = await ask({"limit": 1})
        since = orjson.loads(answer)["changed"] if answer is not None else 0
    await send(b": what changes from here on\n\n")
    silent = 0.0
    while (answer := await ask({"filter": query["filter"], "limit": MAX_LIMIT, "changed_after": since})) is not None:
        listing = orjson.loads(answer)
        since = max(since, listing["changed"])
        told = b"".join(sse("exchange", row) for row in reversed(listing["exchanges"]))
        told += sse("left_out", {"more_than": MAX_LIMIT}) if listing["next"] is not None else b""
        silent = 0.0 if told else silent + POLL_SECONDS
        if not told and silent >= ALIVE_SECONDS:
            told, silent = b": still here\n\n", 0.0
        if told:
            await send(told)
        await asyncio.sleep(POLL_SECONDS)


def sse(name: str, content: object) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"

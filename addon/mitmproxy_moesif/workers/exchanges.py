"""Merges the newest exchanges of all workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import orjson

from mitmproxy_moesif.admin.exchanges import DEFAULT_LIMIT, MAX_LIMIT, NOTHING_KEPT, InvalidQueryError, read_query
from mitmproxy_moesif.recent.api import Listing, Row
from mitmproxy_moesif.recent.stats import add_up
from mitmproxy_moesif.workers.messages import Answer, Request

type AskAll = Callable[[Request], Awaitable[list[Answer]]]
"""Sends a request to all workers; returns the responses of those that answer."""

LIST, STATS = "/exchanges", "/stats"
NUMBERS = {LIST: ("limit", "before", "changed_after"), STATS: ()}


def is_about_exchanges(path: str) -> bool:
    return path in NUMBERS or path.startswith(f"{LIST}/")


async def answer(request: Request, ask_all: AskAll) -> Answer:
    path, _, query = request.path.partition("?")
    path = path.rstrip("/")
    if path not in NUMBERS:
        return await _find(request, ask_all)
    try:
        given = read_query(parse_qs(query, keep_blank_values=True), *NUMBERS[path])
    except InvalidQueryError as error:
        return Answer.of(400, {"message": str(error)})
    content = await (newest(given, ask_all) if path == LIST else _stats(given, ask_all))
    return Answer.of(200, content) if content is not None else Answer.of(503, {"message": NOTHING_KEPT})


async def newest(query: Mapping[str, Any], ask_all: AskAll) -> Listing | None:
    """The newest exchanges in the format of a single worker; None if no worker answers with 200."""
    given = {"limit": DEFAULT_LIMIT, **query}
    answers = await ask_all(Request("GET", f"{LIST}?{urlencode(given)}"))
    return together([orjson.loads(one.body) for one in answers if one.status == 200], given)


def together(told: list[Listing], query: Mapping[str, Any]) -> Listing | None:
    if not told:
        return None
    limit, by_change = query["limit"], "changed_after" in query
    found = [row for one in told for row in one["exchanges"]]
    rows = sorted(found, key=lambda row: -row["changed"] if by_change else -row["number"])
    more = len(rows) > limit or any(one["next"] is not None for one in told)
    return Listing(
        exchanges=rows[:limit],
        next=rows[:limit][-1]["number"] if more else None,
        changed=min(one["changed"] for one in told),
        kept=sum(one["kept"] for one in told),
        seen=sum(one["seen"] for one in told),
    )


async def _stats(query: Mapping[str, Any], ask_all: AskAll) -> Mapping[str, Any] | None:
    """Statistics from the rows of all workers: time statistics of several workers cannot be merged."""
    rows: list[Row] = []
    page: dict[str, Any] = {**query, "limit": MAX_LIMIT}
    while True:
        listing = await newest(page, ask_all)
        if listing is None:
            return None
        rows += listing["exchanges"]
        if listing["next"] is None:
            return add_up(rows)
        page["before"] = listing["next"]


async def _find(request: Request, ask_all: AskAll) -> Answer:
    """The response of the worker that has the exchange."""
    answers = await ask_all(request)
    return min(answers, key=lambda one: one.status, default=Answer.of(503, {"message": NOTHING_KEPT}))

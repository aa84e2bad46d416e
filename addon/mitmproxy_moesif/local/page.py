"""Shows what the local collector received, for people and curl.

`GET /` is an overview in JSON. `GET /events` returns the events, newest first, as a JSON array, filtered by `limit`
(1 to 10,000, default 100) and by `verb`, `status`, `user_id`, `company_id` (the whole value) and `uri` (a part of it).
`GET /events/<transaction_id>` returns one event. `DELETE /events` deletes all. `GET /users`, `/companies` and
`/subscriptions` return the profiles of each kind, newest first, `/users/<id>` and so on one of them. The paths of
`exchanges` are for the traffic page.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tornado.iostream import StreamClosedError
from tornado.web import Application

from mitmproxy_moesif.local.exchanges import LOOPBACK, exchange_paths
from mitmproxy_moesif.local.http import LocalHandler, NotFoundHandler, log_request
from mitmproxy_moesif.local.profiles import KINDS, ProfileStore
from mitmproxy_moesif.local.store import EventStore, Filter

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
# Events read and written at a time, since each may have a megabyte.
PAGE = 50
LOOK_EVERY = 0.05
FIRST_LOOKS = 40
"""Two seconds in total: the first event may take that long."""

PARAMETERS = ("limit", "verb", "status", "user_id", "company_id", "uri")


class _PageHandler(LocalHandler):
    def initialize(self, store: EventStore, profiles: ProfileStore) -> None:
        self.store = store
        self.profiles = profiles

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number from the query; None if it is missing. Raises `ValueError` with one line."""
        text = self.get_query_argument(name, None)
        if text is None:
            return None
        if not (text.isdecimal() and text.isascii() and len(text) < 10 and low <= int(text) <= high):
            raise ValueError(f"{name}: a whole number from {low} to {high}")
        return int(text)

    def answer_with(self, raw: str | None, missing: str) -> None:
        if raw is None:
            self.refuse(404, missing)
        else:
            self.set_header("Content-Type", "application/json")
            self.finish(raw)


class _IndexHandler(_PageHandler):
    def get(self) -> None:
        counts = self.store.counts()
        self.answer(
            200,
            {
                "events": {"received": counts.received, "duplicates": counts.duplicates, "kept": counts.kept},
                **self.profiles.counts(),
                "see": {
                    "GET /events": f"newest first; {', '.join(PARAMETERS)} narrow it",
                    "GET /events/<transaction_id>": "one event",
                    "DELETE /events": "forgets all",
                    **{f"GET /{kind}": f"newest first; /{kind}/<{name}> is one" for kind, name in KINDS.items()},
                    "GET /exchanges": "what moesif-proxy page --admin asks for",
                },
            },
        )


class _EventsHandler(_PageHandler):
    async def get(self) -> None:
        try:
            limit, which = self._asked()
        except ValueError as error:
            self.refuse(400, str(error))
        else:
            self.set_header("Content-Type", "application/json")
            await self._first_event()
            with suppress(StreamClosedError):  # the reader has gone
                await self._write(limit, which)

    async def _first_event(self) -> None:
        """Wait for the first event, so that somebody who has just sent a request sees its event."""
        for _ in range(FIRST_LOOKS):
            if self.store.counts().received:
                break
            await asyncio.sleep(LOOK_EVERY)

    def delete(self) -> None:
        self.answer(200, {"forgotten": self.store.clear()})

    def _asked(self) -> tuple[int, Filter]:
        if unknown := sorted(set(self.request.query_arguments) - set(PARAMETERS)):
            raise ValueError(f"{unknown[0]}: there is no such parameter; there are {', '.join(PARAMETERS)}")
        limit = self.number("limit", 1, MAX_LIMIT)
        which = Filter(
            verb=self.get_query_argument("verb", None),
            status=self.number("status", 0, 999),
            user_id=self.get_query_argument("user_id", None),
            company_id=self.get_query_argument("company_id", None),
            uri=self.get_query_argument("uri", None),
        )
        return DEFAULT_LIMIT if limit is None else limit, which

    async def _write(self, limit: int, which: Filter) -> None:
        """Write page by page, each after the one before was flushed, so that only one is in memory."""
        separator, before = "[", None
        while limit > 0:
            page = self.store.newest(min(limit, PAGE), which, before)
            for event in page:
                self.write(f"{separator}{event.raw}")
                separator = ",\n"
            if len(page) < PAGE:
                break
            await self.flush()
            limit, before = limit - len(page), page[-1].number
        self.finish("]\n" if separator != "[" else "[]\n")


class _EventHandler(_PageHandler):
    def get(self, transaction_id: str) -> None:
        self.answer_with(self.store.find(transaction_id), "there is no event with this transaction_id")


class _ProfilesHandler(_PageHandler):
    def get(self, kind: str) -> None:
        try:
            limit = self.number("limit", 1, MAX_LIMIT) or DEFAULT_LIMIT
        except ValueError as error:
            self.refuse(400, str(error))
        else:
            self.answer_with(f"[{',\n'.join(self.profiles.newest(kind, limit))}]\n", "")


class _ProfileHandler(_PageHandler):
    def get(self, kind: str, name: str) -> None:
        self.answer_with(self.profiles.find(kind, name), f"there is no profile with this {KINDS[kind]}")


def page_app(store: EventStore, profiles: ProfileStore) -> Application:
    """The page as a Tornado application, for this machine only."""
    parts = {"store": store, "profiles": profiles}
    kinds = "|".join(KINDS)
    return Application(
        [
            (r"/", _IndexHandler, parts),
            (r"/events", _EventsHandler, parts),
            (r"/events/([^/]+)", _EventHandler, parts),
            (rf"/({kinds})", _ProfilesHandler, parts),
            (rf"/({kinds})/([^/]+)", _ProfileHandler, parts),
            *exchange_paths(store),
        ],
        default_handler_class=NotFoundHandler,
        log_function=log_request,
        loopback_only=True,
        gate=LOOPBACK,
        streams=set(),
    )

"""Queries for exchanges, wherever these are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import orjson

from mitmproxy_moesif.recent.api import Detail, Listing, Stats

ANSWER_SECONDS = 5.0
"""Timeout of a query."""


class TooLongError(Exception):
    """The query took longer than `ANSWER_SECONDS`."""


class Exchanges(ABC):
    """A store of exchanges. Methods raise `FilterError` for an invalid filter."""

    @abstractmethod
    def find(self, transaction_id: str) -> Detail | None:
        """All about one exchange; None if it is not stored."""

    @abstractmethod
    def newest(
        self, wanted: str = "", limit: int = 100, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        """Newest first; with `changed_after` those changed since, last changed first."""

    @abstractmethod
    def stats(self, wanted: str = "") -> Stats:
        """Statistics of all exchanges that match the filter."""

    def answer(self, query: Mapping[str, Any]) -> bytes:
        """The result as JSON: of one exchange for `{"id": ...}`, statistics for `{"stats": true}`, else a list."""
        answer: Detail | Stats | Listing | None
        if "id" in query:
            answer = self.find(query["id"])
        elif query.get("stats"):
            answer = self.stats(query.get("filter", ""))
        else:
            answer = self.newest(
                query.get("filter", ""), query.get("limit", 100), query.get("before"), query.get("changed_after")
            )
        return orjson.dumps(answer)

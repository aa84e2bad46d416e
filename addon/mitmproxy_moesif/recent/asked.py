"""What can be asked of exchanges, wherever they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import orjson

from mitmproxy_moesif.recent.api import Detail, Listing, Stats

ANSWER_SECONDS = 5.0
"""After which nobody waits for an answer any more."""


class TooLongError(Exception):
    """Looking through them took so long that nobody waits for the answer."""


class Exchanges(ABC):
    """Filters that cannot be raise `FilterError`."""

    @abstractmethod
    def find(self, transaction_id: str) -> Detail | None:
        """One in full; None where it is not kept."""

    @abstractmethod
    def newest(
        self, wanted: str = "", limit: int = 100, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        """Newest first; with `changed_after` those that changed since, last changed first."""

    @abstractmethod
    def stats(self, wanted: str = "") -> Stats:
        """All that the filter lets through, added up."""

    def answer(self, query: Mapping[str, Any]) -> bytes:
        """JSON: `{"id": ...}` asks for one, `{"stats": true}` for all added up, anything else for a list."""
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

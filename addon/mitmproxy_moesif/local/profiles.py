"""Users, companies and subscriptions that the local collector received: the newest, in the same file as the events.

As in Moesif, a new profile is merged into the known one, member by member.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mitmproxy_moesif.local.intake import MAX_EVENT_BYTES, Profile, RefusedError
from mitmproxy_moesif.local.store import Database

KINDS = {"users": "user_id", "companies": "company_id", "subscriptions": "subscription_id"}
"""The kinds of profiles, and for each the member with the id."""

KEEP_PROFILES = 10_000
KEEP_BYTES = 64_000_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS profile (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    raw TEXT NOT NULL,
    UNIQUE (kind, id)
);
"""
_FIND = "SELECT raw FROM profile WHERE kind = ? AND id = ?"
_PUSH_OUT = """
DELETE FROM profile WHERE number NOT IN (
    SELECT number FROM (SELECT number, sum(length(raw)) OVER (ORDER BY number DESC) AS bytes FROM profile)
    WHERE bytes <= ? ORDER BY number DESC LIMIT ?
)
"""


class ProfileStore(Database):
    """Stores the newest `keep` profiles of all kinds, limited to `keep_bytes` of JSON."""

    def __init__(self, path: Path | None = None, keep: int = KEEP_PROFILES, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        super().__init__(path, _SCHEMA, "profiles")

    def add(self, kind: str, profiles: Sequence[Profile]) -> None:
        """Add all or none. Raises `RefusedError` if a merged profile is too large, or too deeply nested to merge."""
        with self._lock, self._db:
            for profile in profiles:
                known = self._db.execute(_FIND, (kind, profile.id)).fetchone()
                try:
                    document = profile.document if known is None else laid_over(json.loads(known[0]), profile.document)
                    raw = json.dumps(document)
                except RecursionError:
                    raise RefusedError(400, "nested too deep") from None
                if len(raw) > MAX_EVENT_BYTES:
                    raise RefusedError(413, f"{KINDS[kind]}: it may have at most {MAX_EVENT_BYTES} bytes")
                row = (kind, profile.id, raw)
                self._db.execute("INSERT OR REPLACE INTO profile (kind, id, raw) VALUES (?, ?, ?)", row)
            self._db.execute(_PUSH_OUT, [self._keep_bytes, self._keep])

    def find(self, kind: str, name: str) -> str | None:
        """A profile as JSON; None if unknown."""
        rows = self._rows(_FIND, kind, name)
        return str(rows[0][0]) if rows else None

    def newest(self, kind: str, limit: int) -> list[str]:
        query = "SELECT raw FROM profile WHERE kind = ? ORDER BY number DESC LIMIT ?"
        return [row[0] for row in self._rows(query, kind, limit)]

    def counts(self) -> dict[str, int]:
        return dict.fromkeys(KINDS, 0) | dict(self._rows("SELECT kind, count(*) FROM profile GROUP BY kind"))


def laid_over(known: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Merge profiles: objects are merged at any depth, null is ignored, other values are replaced."""
    merged = dict(known)
    for name, value in told.items():
        before = merged.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[name] = laid_over(before, value)
        elif value is not None or name not in merged:
            merged[name] = value
    return merged

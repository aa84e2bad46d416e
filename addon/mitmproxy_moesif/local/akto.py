"""Akto's ingest service as a sender sees it, including what its runtime does to records later.

    POST /api/ingestData   {"batchData": [record, ...]}   200, 422 with `actionErrors`
    GET  /api/ingestData   how many were kept, and how many dropped, by reason; this collector only
    GET  /healthCheck      200

The real runtime silently drops some records; here they are counted. Records themselves are not stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from mitmproxy_moesif.local.http import LocalHandler

JSON = "application/json"
FIELDS = (
    "path",
    "method",
    "requestHeaders",
    "responseHeaders",
    "requestPayload",
    "responsePayload",
    "time",
    "statusCode",
)


class AktoCounts:
    """The number of records kept, and of those dropped by reason."""

    def __init__(self) -> None:
        self.kept = 0
        self.forgotten: Counter[str] = Counter()

    def add(self, records: list[Any]) -> None:
        for record in records:
            reason = reason_to_forget(record)
            if reason is None:
                self.kept += 1
            else:
                self.forgotten[reason] += 1


def reason_to_forget(record: Any) -> str | None:
    """Why the runtime would drop a record; None if it keeps it."""
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in FIELDS):
        return "a field is missing, or no string"
    if not _is_digits(record["time"]) or not _is_digits(record["statusCode"]):
        return "time and statusCode must be digits"
    headers = _strings(record["requestHeaders"])
    if headers is None or _strings(record["responseHeaders"]) is None or _strings(record.get("tag") or "{}") is None:
        return "headers and tag must be JSON objects of strings"
    payload = record["requestPayload"]
    if headers.get("content-type", JSON) == JSON and (
        not payload.strip() or (payload.startswith("{") and not payload.endswith("}"))
    ):
        return "requestPayload is empty or cut JSON"
    return None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _strings(text: str) -> Mapping[str, str] | None:
    try:
        fields = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError):
        return None
    is_one = isinstance(fields, dict) and all(isinstance(value, str) for value in fields.values())
    return fields if is_one else None


class IngestHandler(LocalHandler):
    def initialize(self, counts: AktoCounts) -> None:
        self.counts = counts

    def post(self) -> None:
        try:
            records = orjson.loads(self.request.body)["batchData"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            records = None
        if not isinstance(records, list):
            self.answer(422, {"actionErrors": ["batchData must be a list"]})
            return
        self.counts.add(records)
        self.answer(200, {"success": True})

    def get(self) -> None:
        self.answer(200, {"kept": self.counts.kept, "forgotten": self.counts.forgotten})


class HealthHandler(LocalHandler):
    def get(self) -> None:
        self.answer(200, {"success": True})

"""W3C trace context of a request."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def parse_traceparent(header: str) -> tuple[str, str] | None:
    """Trace id and the caller's span id of a valid `traceparent`; version 00 has exactly four parts."""
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None or (match[3] and header.strip().startswith("00")):
        return None
    return match[1], match[2]

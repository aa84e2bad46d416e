"""Events as a sender makes them."""

from __future__ import annotations

import json
from typing import Any

APPLICATION = {"X-Moesif-Application-Id": "any"}


def make_event(number: int = 1, **more: Any) -> dict[str, Any]:
    """An event with only what Moesif requires and an id; `more` replaces and adds."""
    request = {"time": "2026-11-22T09:05:07.042", "uri": f"http://api.example.com/{number}", "verb": "GET"}
    return {"request": request, "transaction_id": f"id-{number}", **more}


def encode(*events: dict[str, Any]) -> bytes:
    return json.dumps(events).encode()

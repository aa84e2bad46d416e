"""HAR files as programs write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NOW = datetime.now(UTC)


def when(days: float = 0) -> str:
    return (NOW - timedelta(days=days)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def an_entry(path: str = "/orders", days: float = 0, **more: Any) -> dict[str, Any]:
    """As Chrome writes one, but for what nobody reads; `more` replaces and adds."""
    request = {
        "method": "POST",
        "url": f"https://api.example.com{path}",
        "httpVersion": "http/2.0",
        "headers": [
            {"name": ":authority", "value": "api.example.com"},
            {"name": "content-type", "value": "application/json"},
            {"name": "x-user", "value": "ada"},
        ],
        "postData": {"mimeType": "application/json", "text": '{"password": "s3cret", "n": 1}'},
    }
    response = {
        "status": 200,
        "statusText": "",
        "httpVersion": "http/2.0",
        "headers": [
            {"name": "content-type", "value": "application/json"},
            {"name": "content-encoding", "value": "gzip"},
        ],
        "content": {"size": 11, "mimeType": "application/json", "text": '{"ok": true}'},
    }
    return {"startedDateTime": when(days), "time": 12.5, "request": request, "response": response} | more


def write_har(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps({"log": {"version": "1.2", "creator": {"name": "x"}, "entries": entries}}))
    return path

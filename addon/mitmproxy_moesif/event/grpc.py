"""How a gRPC call ended, from its trailers, or from the headers of a trailers-only response."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

Headers = Mapping[str, str]


def is_grpc(response: Headers) -> bool:
    return response.get("content-type", "").strip().lower().startswith("application/grpc")


def outcome(headers: Headers, trailers: Headers) -> dict[str, object]:
    """`status` as a number (0: no error) and the decoded `message`, each only if known."""
    said = {**headers, **trailers}
    known: dict[str, object] = {}
    status = said.get("grpc-status", "").strip()
    if status.isascii() and status.isdigit():
        known["status"] = int(status[:9])
    if message := said.get("grpc-message"):
        known["message"] = unquote(message)
    return known

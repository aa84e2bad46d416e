"""Facts from the headers about Kong: our position relative to it, its consumer, and the URI that the client called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

Headers = Mapping[str, str]

OWN_HEADERS = frozenset({"x-kong-request-id", "x-kong-proxy-latency", "x-kong-response-latency"})
TELLING_HEADERS = OWN_HEADERS | {"via", "server"}
"""Headers that identify a response as Kong's."""

_HOST = re.compile(r"[A-Za-z0-9._~%-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


class Position(Enum):
    """The proxy's position for one exchange. DIRECT: no Kong was detected on either side."""

    FRONT = "front"
    BEHIND = "behind"
    DIRECT = "direct"


def position(configured: str, request: Headers, response: Headers, *, trusted: bool) -> Position:
    """The configured position, else derived from the headers: Kong's headers on the request mean BEHIND."""
    if configured != "auto":
        return Position(configured)
    if trusted and ("x-kong-request-id" in request or "x-forwarded-path" in request):
        return Position.BEHIND
    is_kongs_answer = not OWN_HEADERS.isdisjoint(response) or kong_version(response) is not None
    return Position.FRONT if is_kongs_answer else Position.DIRECT


def believed_consumers(where: Position, request: Headers, response: Headers, *, trusted: bool) -> tuple[Headers, ...]:
    """The sides whose consumer headers were set by Kong. In front of Kong, a request's come from the client."""
    if where is Position.FRONT:
        return (response,)
    return () if where is Position.BEHIND and not trusted else (request,)


def kong_version(response: Headers) -> str | None:
    """The version in `Via: 1.1 kong/3.9.3` (older: `kong/2.8.1`) or in `Server: kong/3.9.3`."""
    for entry in response.get("via", "").split(","):
        product = entry.strip().rpartition(" ")[2]
        if product.startswith("kong/"):
            return product.removeprefix("kong/") or None
    server = response.get("server", "").strip()
    return (server.removeprefix("kong/") or None) if server.startswith("kong/") else None


def kong_metadata(where: Position, request: Headers, response: Headers) -> dict[str, object]:
    """`metadata.kong`: each value only if known. In front of Kong, a request's headers come from the client."""
    known: dict[str, object] = {}
    kongs = request if where is Position.BEHIND else response
    if request_id := kongs.get("x-kong-request-id"):
        known["request_id"] = request_id
    for key in ("upstream", "proxy"):
        latency = response.get(f"x-kong-{key}-latency", "").strip()
        if latency.isascii() and latency.isdigit():
            known[f"{key}_latency_ms"] = int(latency[:18])
    if version := kong_version(kongs):
        known["version"] = version
    return known


def public_parts(headers: Headers, scheme: str, authority: str, target: str) -> tuple[str, str, str]:
    """Behind Kong: scheme, authority and target as the client sent them, from Kong's `X-Forwarded-*` headers."""
    proto = _first(headers, "x-forwarded-proto").lower()
    host = _first(headers, "x-forwarded-host")
    port = _first(headers, "x-forwarded-port")
    if not _HOST.fullmatch(host):
        host = ""
    elif port.isascii() and port.isdigit() and ":" not in host.rpartition("]")[2]:
        host = f"{host}:{port[:5]}"
    path, query_mark, query = target.partition("?")
    if (forwarded := headers.get("x-forwarded-path", "").partition("?")[0].strip()).startswith("/"):
        path = forwarded
    elif prefix := headers.get("x-forwarded-prefix", "").strip().rstrip("/"):
        path = prefix + path
    return proto if proto in ("http", "https") else scheme, host or authority, path + query_mark + query


def absolute_uri(scheme: str, authority: str, target: str) -> str:
    """Scheme, host (with port unless it is the scheme's default), path and query as sent."""
    host = authority.removesuffix(":443" if scheme == "https" else ":80")
    return f"{scheme}://{host}{target if target.startswith('/') else '/' + target}"


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()

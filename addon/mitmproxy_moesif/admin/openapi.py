"""Our own paths as an OpenAPI document; for Kong's paths see Kong's documentation."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.exchanges import DEFAULT_LIMIT, MAX_LIMIT, MAX_NUMBER
from mitmproxy_moesif.admin.source import Status
from mitmproxy_moesif.recent.api import Detail, Listing, Stats
from mitmproxy_moesif.recent.terms import MAX_LENGTH

JSON = "application/json"


class Message(msgspec.Struct):
    """An error in one line."""

    message: str


class Health(msgspec.Struct):
    """Whether events flow, and why not."""

    status: str
    reason: str = ""


@cache
def document() -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    types = (Listing, Detail, Stats, Status, Health, Message)
    references, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    listing, detail, stats, status, health, message = references
    refused, nothing = (
        _answer("A wrong parameter", message),
        _answer("Nothing is kept, or delivery does not answer", message),
    )
    queried = {"400": refused, "503": nothing}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mitmproxy-moesif",
            "version": __version__,
            "description": "Data about a running proxy, in addition to Kong's Admin API.",
        },
        "paths": {
            "/exchanges": _get(
                "The newest exchanges, newest first",
                {"200": _answer("A page of them", listing), **queried},
                [
                    _filter(),
                    _number("limit", 1, MAX_LIMIT, f"How many; default {DEFAULT_LIMIT}."),
                    _number("before", 0, MAX_NUMBER, "Only those with smaller numbers: `next` of the page before."),
                    _number("changed_after", 0, MAX_NUMBER, "Only those changed since then, last changed first."),
                ],
            ),
            "/exchanges/{transaction_id}": _get(
                "One exchange in full",
                {"200": _answer("It", detail), "404": _answer("It is not stored", message), "503": nothing},
                [{"name": "transaction_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            ),
            "/exchanges/stream": _get(
                "Exchanges as they come and change: server-sent events `exchange` and `left_out`",
                {"200": _answer("Rows, until the client goes", {"type": "string"}, "text/event-stream"), **queried},
                [_filter(), _number("changed_after", 0, MAX_NUMBER, "Start with changes since then.")],
            ),
            "/stats": _get("Statistics of the kept exchanges", {"200": _answer("Sums", stats), **queried}, [_filter()]),
            "/status": _get("Where every event is", {"200": _answer("Counts", status)}),
            "/health": _get(
                "Whether events flow", {"200": _answer("They do", health), "503": _answer("They do not", health)}
            ),
            "/ping": _get("Whether it answers", {"200": _answer("PONG", {"type": "string"}, "text/plain")}),
            "/metrics": _get("Metrics for Prometheus", {"200": _answer("Metrics", {"type": "string"}, "text/plain")}),
            "/openapi.json": _get("This document", {"200": _answer("OpenAPI", {"type": "object"})}),
        },
        "components": {"schemas": schemas},
    }


def _get(summary: str, responses: dict[str, Any], parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": responses}}


def _answer(description: str, schema: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _filter() -> dict[str, Any]:
    description = "Terms that must all hold: `status:5xx user:ada not company:acme`."
    schema = {"type": "string", "maxLength": MAX_LENGTH}
    return {"name": "filter", "in": "query", "description": description, "schema": schema}


def _number(name: str, low: int, high: int, description: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return {"name": name, "in": "query", "description": description, "schema": schema}

"""An exchange in the formats of other tools: a curl command, HAR, NDJSON. Masked like events."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mitmproxy_moesif import __version__
from mitmproxy_moesif.page.messages import Message, message
from mitmproxy_moesif.recent.api import Detail

NOT_SENT = frozenset(("content-length", "transfer-encoding", "connection", "x-moesif-transaction-id"))
"""Headers that curl sets itself, and the id of the original exchange."""

NOTHING: Message = {"verb": "", "uri": "", "headers": {}}
"""Used for a side that an event lacks."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""Allowed header names: curl reads a file for an argument that begins with `@`."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and line feed, which are safe in quotes."""


def curl(event: Mapping[str, Any]) -> str:
    """A command that sends the request again. Untrusted text is never an option, and has no control characters, which a
    terminal may interpret as keys when they are pasted."""
    request = message(event, "request") or NOTHING
    words = ["curl", "--globoff", "--path-as-is", "-X", request["verb"]]
    for name, value in request["headers"].items():
        if name not in NOT_SENT and name != "host" and _NAME.fullmatch(name):
            words += ["-H", f"{name}: {value}" if value else f"{name};"]
    body = body_bytes(request)
    if body is not None:
        if b"\0" in body or not _is_text(body):  # not possible in an argument
            encoded = base64.b64encode(body).decode()
            words += ["--data-binary", "@-", "--", request["uri"]]
            return f"printf %s {encoded} | base64 -d | {' '.join(map(_quoted, words))}"
        words += ["--data-raw", body.decode()]
    return " ".join(map(_quoted, [*words, "--", request["uri"]]))


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _quoted(word: str) -> str:
    """Quote a word for a shell; control characters use the syntax of bash, zsh and ksh."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + _CONTROL.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), escaped) + "'"


def replayed_at(proxy: str, event: Mapping[str, Any]) -> str:
    """The URL for sending the request again through a proxy, never to another host. Raises `ValueError`."""
    uri = (message(event, "request") or NOTHING)["uri"]
    parts = urlsplit(uri)
    query = f"?{parts.query}" if parts.query else ""
    return f"{proxy.rstrip('/')}/{parts.path.removeprefix('/')}{query}"


def body_bytes(side: Message) -> bytes | None:
    """A body as bytes; None without a body."""
    if "body" not in side:
        return None
    if side["transfer_encoding"] == "base64":
        return base64.b64decode(side["body"])
    return json.dumps(side["body"], ensure_ascii=False).encode("utf-8", "surrogatepass")


def ndjson(details: Sequence[Detail]) -> str:
    """One event per line, oldest first."""
    return "".join(f"{json.dumps(one['event'], ensure_ascii=False)}\n" for one in reversed(details) if one["event"])


def har(details: Sequence[Detail]) -> dict[str, Any]:
    """HAR 1.2, oldest first; exchanges without an event are left out."""
    entries = [_entry(detail, detail["event"]) for detail in reversed(details) if detail["event"] is not None]
    creator = {"name": "mitmproxy-moesif", "version": __version__}
    return {"log": {"version": "1.2", "creator": creator, "entries": entries}}


def _entry(detail: Detail, event: Mapping[str, Any]) -> dict[str, Any]:
    ms = detail["ms"] or 0
    return {
        "startedDateTime": detail["time"],
        "time": ms,
        "request": _request(message(event, "request") or NOTHING),
        "response": _response(message(event, "response") or NOTHING),
        "cache": {},
        "timings": {"send": 0, "wait": ms, "receive": 0},
        "_transaction_id": detail["id"],
    }


def _request(request: Message) -> dict[str, Any]:
    query = parse_qsl(request["uri"].partition("?")[2].partition("#")[0], keep_blank_values=True)
    shown: dict[str, Any] = {
        "method": request["verb"],
        "url": request["uri"],
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(request["headers"].items()),
        "queryString": _pairs(query),
        "headersSize": -1,
        "bodySize": -1,
    }
    if (body := body_bytes(request)) is not None:
        mime = request["headers"].get("content-type", "")
        shown["postData"] = {"mimeType": mime, "text": body.decode("utf-8", "replace")}
    return shown


def _response(response: Message) -> dict[str, Any]:
    headers = response["headers"]
    content: dict[str, Any] = {"size": 0, "mimeType": headers.get("content-type", "")}
    if (body := body_bytes(response)) is not None:
        content["size"] = len(body)
        if response["transfer_encoding"] == "base64":
            content |= {"text": response["body"], "encoding": "base64"}
        else:
            content["text"] = body.decode("utf-8", "replace")
    return {
        "status": response.get("status", 0),
        "statusText": "",
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(headers.items()),
        "content": content,
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": -1,
    }


def _pairs(fields: Any) -> list[dict[str, str]]:
    return [{"name": str(name), "value": str(value)} for name, value in fields]

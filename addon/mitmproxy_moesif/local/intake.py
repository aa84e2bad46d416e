"""Validates requests like Moesif's collector: a POST's body becomes events or profiles, or raises `RefusedError`.

Pure: no sockets, no storage. Events keep their original text and are never re-encoded, so that numbers and key order
are shown exactly as sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, NoReturn

from mitmproxy_moesif.event.decoding import Failure, decode

MAX_BATCH_BYTES = 50_000_000
MAX_EVENT_BYTES = 1_000_000
REQUIRED = ("time", "uri", "verb")

_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_BLANKS = re.compile(r"[ \t\n\r]*")


class RefusedError(Exception):
    """A body is refused; with the HTTP status and one line for the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event: its JSON text as received, the text's size in bytes, and fields to search by (None: not given)."""

    raw: str
    size: int
    transaction_id: str | None
    verb: str
    uri: str
    status: int | None
    user_id: str | None
    company_id: str | None


def read_one_or_many(body: bytes, encoding: str = "") -> list[ReceivedEvent]:
    """The events of `POST /v1/events`: one object, or an array. Raises `RefusedError`."""
    text = _text(body, encoding)
    start = _skip_blanks(text, 0)
    if text[start : start + 1] == "[":
        return _read_array(text)
    value, end = _scan(text, start)
    _expect_end(text, end)
    return [_event(value, text[start:end])]


def read_batch(body: bytes, encoding: str = "") -> list[ReceivedEvent]:
    """The events of `POST /v1/events/batch`: a JSON array of objects. Raises `RefusedError`."""
    return _read_array(_text(body, encoding))


@dataclass(frozen=True, slots=True)
class Profile:
    """Data on one user, company or subscription."""

    id: str
    document: dict[str, Any]


def read_profiles(body: bytes, encoding: str, named_by: str, *, many: bool) -> list[Profile]:
    """The profiles of `POST /v1/users` and the like. `named_by`: the member with the id. `many`: the body is a batch.
    Raises `RefusedError`."""
    text = _text(body, encoding)
    try:
        given = json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except RecursionError:
        raise RefusedError(400, "nested too deep") from None
    except ValueError:
        raise RefusedError(400, "not JSON") from None
    if isinstance(given, list) is not many:
        raise RefusedError(400, "not a JSON array" if many else "not a JSON object")
    return [_profile(one, named_by) for one in (given if many else [given])]


def _profile(value: object, named_by: str) -> Profile:
    if not isinstance(value, dict):
        raise RefusedError(400, "not a JSON object")
    name = value.get(named_by)
    if not isinstance(name, str) or not name:
        raise RefusedError(400, f"{named_by} is required and must be text")
    return Profile(_storable(name), value)


def _text(body: bytes, encoding: str) -> str:
    name = encoding.strip().lower()
    if name not in _ENCODINGS:
        raise RefusedError(415, "Content-Encoding may be deflate or gzip")
    plain = decode(body, name, MAX_BATCH_BYTES)
    if plain is Failure.UNDECODABLE:
        raise RefusedError(400, f"not {name}, or cut short")
    if plain is Failure.TOO_LARGE or len(plain) > MAX_BATCH_BYTES:
        raise RefusedError(413, f"a batch may have at most {MAX_BATCH_BYTES} bytes")
    try:
        return plain.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"not UTF-8 at byte {error.start}") from None


def _read_array(text: str) -> list[ReceivedEvent]:
    return [_event(value, raw) for value, raw in _elements(text)]


def _elements(text: str) -> Iterator[tuple[Any, str]]:
    """Each element of the JSON array `text`, with its original text. Raises `RefusedError`."""
    at = _skip_blanks(text, 0)
    if text[at : at + 1] != "[":
        raise RefusedError(400, "not a JSON array")
    at = _skip_blanks(text, at + 1)
    if text[at : at + 1] == "]":
        return _expect_end(text, at + 1)
    while True:
        value, end = _scan(text, at)
        yield value, text[at:end]
        at = _skip_blanks(text, end)
        if text[at : at + 1] == "]":
            return _expect_end(text, at + 1)
        if text[at : at + 1] != ",":
            raise RefusedError(400, f"not JSON at character {at}")
        at = _skip_blanks(text, at + 1)


def _scan(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise RefusedError(400, "nested too deep") from None
    except ValueError:
        raise RefusedError(400, f"not JSON at character {at} or after it") from None


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _expect_end(text: str, at: int) -> None:
    if _skip_blanks(text, at) != len(text):
        raise RefusedError(400, f"not JSON at character {at}: something follows the end")


def _event(value: object, raw: str) -> ReceivedEvent:
    size = len(raw.encode())
    if size > MAX_EVENT_BYTES:
        raise RefusedError(413, f"an event may have at most {MAX_EVENT_BYTES} bytes")
    if not isinstance(value, dict):
        raise RefusedError(400, "an event must be a JSON object")
    request = _request(value)
    return ReceivedEvent(
        raw=raw,
        size=size,
        transaction_id=_text_or_none(value, "transaction_id"),
        verb=_storable(request["verb"]),
        uri=_storable(request["uri"]),
        status=_status(value),
        user_id=_text_or_none(value, "user_id"),
        company_id=_text_or_none(value, "company_id"),
    )


def _request(event: dict[str, Any]) -> dict[str, Any]:
    request = event.get("request")
    if not isinstance(request, dict):
        raise RefusedError(400, "an event must have an object `request`")
    for name in REQUIRED:
        if not isinstance(request.get(name), str) or not request[name]:
            raise RefusedError(400, f"request.{name} is required and must be text")
    if not _is_time(request["time"]):
        raise RefusedError(400, "request.time must be ISO 8601")
    return request


def _status(event: dict[str, Any]) -> int | None:
    response = event.get("response")
    status = response.get("status") if isinstance(response, dict) else None
    return status if isinstance(status, int) and 0 <= status < 1000 else None


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _text_or_none(event: dict[str, Any], name: str) -> str | None:
    given = event.get(name)
    if given is None:
        return None
    if not isinstance(given, str):
        raise RefusedError(400, f"{name} must be text")
    return _storable(given)


def _storable(text: str) -> str:
    """Replace lone surrogates, which JSON can escape but UTF-8, and so a database, cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _whole_number(digits: str) -> int:
    """0 for a long number, since Python refuses thousands of digits. The text is kept, and no search needs it."""
    return int(digits) if len(digits) < 20 else 0


def _finite(digits: str) -> float:
    """A float for a profile, which is encoded again; JSON has no infinity. Raises `RefusedError`."""
    number = float(digits)
    if not isfinite(number):
        raise RefusedError(400, "a number is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Immutable.
_DECODER = json.JSONDecoder(parse_int=_whole_number, parse_constant=_no_constant)

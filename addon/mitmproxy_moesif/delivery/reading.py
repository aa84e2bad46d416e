"""Reads the fields that every event has from its JSON, without parsing the rest into objects."""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import msgspec


class Request(msgspec.Struct):
    time: str


class Event(msgspec.Struct):
    transaction_id: Annotated[str, msgspec.Meta(min_length=1)]
    request: Request


_decode = msgspec.json.Decoder(Event).decode


def read_event(value: bytes) -> Event:
    """Raises `ValueError` if it is not an event, not JSON, or nested too deep to be read by this thread."""
    text = value.decode()  # checks the UTF-8: msgspec does not validate what it skips
    try:
        try:
            return _decode(value)
        except msgspec.MsgspecError:  # the standard library also accepts half a surrogate pair in a body
            plain = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
            return msgspec.convert(plain, Event)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")

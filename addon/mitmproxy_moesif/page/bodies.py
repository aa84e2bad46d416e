"""Headers and bodies as HTML. Untrusted text is always escaped, and never becomes markup.

A body is shown by its type: JSON and XML as collapsible trees, forms as fields, images and text as such, anything
else as hex.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from itertools import islice
from typing import Any, Final
from urllib.parse import parse_qsl

from mitmproxy_moesif.event.masking.media_types import media_type, parameters
from mitmproxy_moesif.event.masking.multipart_mask import parts_of
from mitmproxy_moesif.event.masking.names import UnmaskableError
from mitmproxy_moesif.page.messages import Message

MOST_LINES: Final = 2000
LONGEST: Final = 10_000
"""Maximum characters shown of one text."""

DEEPEST: Final = 200
"""Maximum levels shown of a JSON value, since each uses the interpreter's stack."""

MOST_PARTS: Final = 200
HEX_BYTES: Final = 2048
IMAGES: Final = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
"""Without SVG, which is a document and may have scripts."""

OMITTED: Final[Mapping[str, str]] = {
    "too_large": "larger than a body or an event may be",
    "unmaskable": "masks apply, and it cannot be parsed",
    "incomplete": "the exchange ended before it did",
}
"""Texts for the reasons why an event lacks a body."""

type Removed = Mapping[str, str]
"""Removed places, and the parameter responsible for each."""


def headers(shown: Mapping[str, Any], removed: Removed) -> str:
    """A table of headers. Masked ones are marked; those without a value are shown by name."""
    rows = [_field(name, str(value), removed.get(name)) for name, value in shown.items()]
    rows += [_field(name, None, by) for name, by in removed.items() if name not in shown]
    return f'<table class="fields">{"".join(rows)}</table>' + "".join(_tokens(shown))


def _field(name: str, value: str | None, by: str | None) -> str:
    text = escape((value or "")[:LONGEST])
    marked = f'<mark title="{escape(by)}">{text}<em> removed by {escape(by)}</em></mark>' if by is not None else text
    return f"<tr><th>{escape(name)}</th><td>{marked}</td></tr>"


def _tokens(shown: Mapping[str, Any]) -> Iterator[str]:
    for name, value in shown.items():
        if (claims := jwt(str(value))) is not None:
            title = f"<summary>token in {escape(name)}</summary>"
            yield f'<details class="jwt">{title}{"".join(_nodes(claims, {}, (), [MOST_LINES]))}</details>'


def jwt(value: str) -> list[Any] | None:
    """Header and claims of a JSON web token, unverified; None if it is not one."""
    parts = value.rpartition(" ")[2].split(".")
    if len(parts) != 3 or not parts[0].startswith("eyJ"):
        return None
    try:
        return [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2]]
    except (ValueError, RecursionError):
        return None


def body(message: Message, omitted: str | None, removed: Removed) -> str:
    """The body of one side of an event."""
    if omitted is not None:
        return _note(f"left out: {OMITTED.get(omitted, omitted)}")
    if "body" not in message:
        return _note(f"removed by {removed['']}" if "" in removed else "no body")
    if message.get("transfer_encoding") == "json":
        shown = "".join(_nodes(message["body"], removed, (), [MOST_LINES]))
        gone = [f"{place} (removed by {by})" for place, by in removed.items() if not _is_there(message["body"], place)]
        return f'<div class="json">{shown}</div>' + "".join(map(_note, gone))
    raw = base64.b64decode(message["body"])
    notes = "".join(_note(f"removed by {by}") for by in dict.fromkeys(removed.values()))
    return _plain(raw, str(message["headers"].get("content-type", ""))) + notes


def _plain(raw: bytes, content_type: str) -> str:
    kind = media_type(content_type)
    if kind == "multipart/form-data":
        with suppress(UnmaskableError):
            return _multipart(raw, content_type)
    return _single(raw, kind)


def _single(raw: bytes, kind: str) -> str:
    if kind in IMAGES:
        encoded = base64.b64encode(raw).decode()
        return f'<img alt="{escape(kind)}" src="data:{kind};base64,{encoded}">'
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _hex(raw)
    if kind == "application/x-www-form-urlencoded":
        fields = parse_qsl(text, keep_blank_values=True)
        rows = "".join(_field(name, value, None) for name, value in fields[:MOST_LINES])
        rest = _note(f"… more than {MOST_LINES} fields") if len(fields) > MOST_LINES else ""
        return f'<table class="fields">{rows}</table>{rest}'
    if kind.endswith("xml"):
        return _xml(text)
    return _text(text) if text.isprintable() or not any(ord(character) < 9 for character in text) else _hex(raw)


def _multipart(raw: bytes, content_type: str) -> str:
    """The parts of a multipart body; a form in a part is shown as text."""
    parts = list(islice(parts_of(raw, content_type), MOST_PARTS + 1))
    rows = [
        f"<tr><th>{escape(_name(head))}</th><td>{_single(content, media_type(head.get('content-type', '')))}</td></tr>"
        for head, content in parts[:MOST_PARTS]
    ]
    rest = _note(f"… more than {MOST_PARTS} parts") if len(parts) > MOST_PARTS else ""
    return f'<table class="fields">{"".join(rows)}</table>{rest}'


def _name(headers: Mapping[str, str]) -> str:
    said = parameters(headers.get("content-disposition", ""))
    name = next((parameter.value for parameter in said if parameter.name == "name"), "")
    return name[:LONGEST].encode("latin-1").decode(errors="replace")


def _xml(text: str) -> str:
    """XML, indented if it has no document type, whose entities could expand enormously."""
    from xml.dom.minidom import parseString
    from xml.parsers.expat import ExpatError

    if "<!DOCTYPE" in text or "<!ENTITY" in text or len(text) > LONGEST:
        return _text(text)
    try:
        return _text(parseString(text.encode()).toprettyxml(indent="  "))  # noqa: S318 - no document type
    except (ExpatError, ValueError, RecursionError):
        return _text(text)


def _text(text: str) -> str:
    rest = f"\n… {len(text) - LONGEST} characters more" if len(text) > LONGEST else ""
    return f"<pre>{escape(text[:LONGEST])}{rest}</pre>"


def _hex(raw: bytes) -> str:
    lines = [
        f"{at:06x}  {raw[at : at + 16].hex(' '):47}  {_ascii(raw[at : at + 16])}"
        for at in range(0, min(len(raw), HEX_BYTES), 16)
    ]
    rest = f"\n… {len(raw) - HEX_BYTES} bytes more" if len(raw) > HEX_BYTES else ""
    return f'<pre class="hex">{escape(chr(10).join(lines))}{rest}</pre>'


def _ascii(raw: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in raw)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _nodes(value: Any, removed: Removed, path: tuple[str, ...], room: list[int], key: str = "") -> Iterator[str]:
    """A JSON value as a collapsible tree, with removed members marked, limited to `room` lines."""
    room[0] -= 1
    if room[0] < 0:
        if room[0] == -1:
            yield _note(f"… more than {MOST_LINES} lines")
        return
    if len(path) > DEEPEST:
        yield _note(f"… nested deeper than {DEEPEST} levels")
        return
    by = removed.get(".".join(path)) if path else None
    opening, closing = (f'<mark title="{escape(by)}">', f"<em> removed by {escape(by)}</em></mark>") if by else ("", "")
    name = f"<b>{escape(key[:LONGEST])}</b>: " if key else ""
    members = list(_members(value))
    if not members:
        yield f"<div>{opening}{name}{_scalar(value)}{closing}</div>"
        return
    noun = "item" if isinstance(value, list) else "member"
    size = f"{len(members)} {noun}{'s' if len(members) > 1 else ''}"
    is_open = " open" if len(path) < 3 else ""
    yield f"<details{is_open}><summary>{opening}{name}<i>{size}</i>{closing}</summary>"
    for member, inner in members:
        yield from _nodes(inner, removed, (*path, member), room, member)
    yield "</details>"


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(index), item) for index, item in enumerate(value))


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f'<span class="{type(value).__name__}">{escape(text[:LONGEST])}</span>'


def _is_there(value: Any, place: str) -> bool:
    """Whether a body as sent still has this member, which is then shown with its mark."""
    for step in filter(None, place.split(".")):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    return True

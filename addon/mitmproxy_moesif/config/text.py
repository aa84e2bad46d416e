"""Helpers for messages, and checks of texts that are used in several places."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit


def http_url(text: str) -> SplitResult:
    """The parts of an http or https URL. Raises `ValueError`."""
    wrong = ValueError("must be an http or https URL without credentials, query and fragment")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise wrong
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong
    return parts


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most similar to a misspelt one; None if none is close."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def number_of(count: int, thing: str) -> str:
    """`1 event`, `2 events`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def reason_of(error: Exception) -> str:
    """The reason in words, without the error number and path that Python adds to an `OSError`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


HIDDEN = "a value not shown here"

_IN_YAML = {"None": "null", "True": "true", "False": "false"}


def quoted(value: object) -> str:
    """A value as a message may quote it. Any with `@`, `?` or `#` is hidden: a URL may contain a password or token."""
    text = repr(value)
    text = _IN_YAML.get(text, text)
    return HIDDEN if set("@?#") & set(text) else text[:200]


def normal(name: str) -> str:
    """A name in the spelling of options: without hyphens, capitals, or the `config.` of Kong's Admin API."""
    return name.lower().replace("-", "_").removeprefix("config.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error message; empty if no name is close.

    Prefers a known name that differs only in spelling (see `normal`) or the prefix `moesif_`.
    """
    names = list(known)
    written = {normal(each).removeprefix("moesif_"): each for each in names}
    found = written.get(normal(name).removeprefix("moesif_")) or closest(name, names)
    return f"; did you mean {found}?" if found else ""

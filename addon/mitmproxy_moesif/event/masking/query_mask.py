"""Query parameters: `/s?token=abc&q=1` -> `/s?token=*****&q=1`."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_plus

MASK: Final = "*****"


def mask_query(target: str, names: frozenset[str]) -> str:
    """Mask each occurrence of the parameters `names` in a URL or a `path?query`.

    Names are compared after percent-decoding and stay as they were sent, like every other byte. What stands before the
    first `?` is no query. A `#` ends nothing: neither a request nor a Referer carries a fragment, so it is part of a
    value. Never raises; returns `target` itself where there is nothing to mask.
    """
    if not names or "?" not in target:
        return target
    path, question_mark, query = target.partition("?")
    if not query:
        return target
    masked = "&".join(_masked(part, names) for part in query.split("&"))
    return target if masked == query else path + question_mark + masked


def _masked(part: str, names: frozenset[str]) -> str:
    name = part.partition("=")[0]
    return f"{name}={MASK}" if part and _is_masked(name, names) else part


def _is_masked(name: str, names: frozenset[str]) -> bool:
    if name in names:
        return True
    if "%" not in name and "+" not in name:
        return False
    return unquote_plus(name) in names or unquote_plus(name, "latin-1") in names

"""Merge tags: `{{0}}` in a rule's headers and body, filled with the caller's values.

Only the names in a rule's `variables` are tags; any other text in braces is left as it is. A template is split once,
when the rules arrive. Filling joins its parts in one pass, so a value that looks like a tag is not replaced again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

UNKNOWN = "UNKNOWN"

# Cc (C0, DEL, C1), the two Unicode line ends, and surrogates, which have no encoding.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def header_text(text: str) -> str:
    """Make text safe for a header's value: line breaks and characters that cannot be encoded become spaces."""
    return _UNPRINTABLE.sub(" ", text)


def json_escaped(text: str) -> str:
    """Text as written between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Template:
    """Text with tags for `names`; `escape` is applied to values, and to names, since these are escaped in the text."""

    def __init__(self, text: str, names: Iterable[str], escape: Callable[[str], str]) -> None:
        self._escape = escape
        by_text = {escape(name): name for name in names}
        # Parts alternate: text, name, text, ... - re.split returns this for a pattern with one group.
        parts = re.split(rf"\{{\{{({'|'.join(map(re.escape, by_text))})\}}\}}", text) if by_text else [text]
        self._texts = tuple(parts[::2])
        self._names = tuple(by_text[part] for part in parts[1::2])

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each tag replaced by its value, or by `UNKNOWN` if it has none."""
        if not self._names:
            return self._texts[0]
        filled = [self._texts[0]]
        for name, text in zip(self._names, self._texts[1:], strict=True):
            filled += (self._escape(values.get(name, UNKNOWN)), text)
        return "".join(filled)

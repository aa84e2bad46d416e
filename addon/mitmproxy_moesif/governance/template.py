"""Merge tags: `{{0}}` in a rule's headers and body, filled with the values of whoever calls.

Only the names in a rule's `variables` are tags; anything else between braces is text. A template is split once, when
the rules arrive; filling it joins its parts, in one pass, so that a value that itself looks like a tag stays a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

UNKNOWN = "UNKNOWN"

# Cc (C0, DEL, C1), the two Unicode line ends, and surrogates, which have no encoding.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def header_text(text: str) -> str:
    """Text made safe as a header's value: what could end the line or cannot be encoded becomes a space."""
    return _UNPRINTABLE.sub(" ", text)


def json_escaped(text: str) -> str:
    """Text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Template:
    """Text with tags for `names`; `escape` is applied to names (as they stand in the text) and to values."""

    def __init__(self, text: str, names: Iterable[str], escape: Callable[[str], str]) -> None:
        self._escape = escape
        by_text = {escape(name): name for name in names}
        # Parts alternate: text, name, text, ... - what re.split gives for a pattern with one group.
        parts = re.split(rf"\{{\{{({'|'.join(map(re.escape, by_text))})\}}\}}", text) if by_text else [text]
        self._texts = tuple(parts[::2])
        self._names = tuple(by_text[part] for part in parts[1::2])

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each tag replaced by its value, `UNKNOWN` where there is none."""
        if not self._names:
            return self._texts[0]
        filled = [self._texts[0]]
        for name, text in zip(self._names, self._texts[1:], strict=True):
            filled += (self._escape(values.get(name, UNKNOWN)), text)
        return "".join(filled)

"""The masked names: whether a field has one, and where a text may have one, however it is spelled there.

Names are compared without case, whole and by their parts: `user[password]`, `user.password` and `@password` are
`password`. A text is asked from cheap to exact: `may_occur` and `suspects` by its bytes, `is_key_in` by what it says.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

from mitmproxy_moesif.config.re2set import compile_re2, re2_options

MASK: Final = b"*****"
"""Stands in place of a text that may not be shown."""

BOM: Final = b"\xef\xbb\xbf"

_MAX_MEMORY: Final = 8_000_000
# What can be looked for in the bytes of any format. Any other name makes every text a suspect.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
# What escapes are made of, and what XML splits a text with: escaped itself, it may hide a name.
_MAKES_ESCAPES: Final = "\\ux#%&<!?0123456789abcdef"
_SPLITS_XML: Final = r"!--|!\[cdata\[|\?(?:>|&gt)"
_AFTER_AN_ESCAPE: Final = r"\\[a-z]|%[0-9a-f]{2}|u[0-9a-f]{4}|\\x[0-9a-f]{2}|\\[0-7]{1,3}"
_CASES_BEYOND_ASCII: Final = "(?-i:\u017f|\u212a)"  # of s and k
_BETWEEN_PARTS: Final = r"[][.:;/@$#?&*!|\ufeff\x00-\x1f]"
_COMMENT: Final = re.compile(r"<!--(?:[^-]|-(?!->)){0,256}+-->|<!\[CDATA\[|\]\]>|<\?[^>]{0,256}+>")
_ESCAPE: Final = re.compile(r"[\\%]u([0-9A-Fa-f]{4})|\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ROUNDS: Final = 8


class UnmaskableError(ValueError):
    """The text is not certainly of the format in which the masked fields would have to be found."""


class FieldNames:
    """The names of one side, compiled once."""

    __slots__ = ("_beyond_ascii", "_column", "_folded", "_key", "_part", "_suspect")

    def __init__(self, names: Iterable[str]) -> None:
        self._folded = frozenset(name.casefold() for name in names)
        self._beyond_ascii = not all(name.isascii() for name in self._folded)
        one_of = "|".join(re.escape(name) for name in sorted(self._folded, key=len, reverse=True) if name) or r"(?!)"
        self._part = re.compile(rf"(?:^|{_BETWEEN_PARTS})\s*+(?:{one_of})\s*+(?:$|{_BETWEEN_PARTS})")
        self._key = _key_pattern(one_of)
        self._column = re.compile(rf"""(?:^|[\n,;|\t])[ "']*+(?:{one_of})[ "']*+\r?+(?:[\n,;|\t]|$)""")
        self._suspect = _suspect_pattern(self._folded) if all(map(_PLAIN.fullmatch, self._folded)) else None

    def holds(self, name: str | bytes) -> bool:
        """Whether the field of this name is masked.

        A name in some older charset cannot be told apart from a masked one beyond ASCII, so it counts as one.
        """
        if isinstance(name, str):
            return self._is(name.casefold())
        try:
            return self._is(name.decode().casefold())
        except UnicodeDecodeError:
            return self._beyond_ascii or self._is(name.decode("latin-1").casefold())

    def _is(self, folded: str) -> bool:
        return folded in self._folded or self._part.search(folded) is not None

    def may_occur(self, raw: bytes) -> bool:
        """False where nothing inside `raw`, however deep and however escaped, can have a masked name. Cheap."""
        return self._suspect is None or self._suspect.search(raw) is not None

    def suspects(self, raw: bytes) -> Iterable[int] | None:
        """Where in `raw` a masked name may stand, or an escape that may spell one, in order; None: anywhere."""
        return None if self._suspect is None else (found.end() - 1 for found in self._suspect.finditer(raw))

    def is_key_in(self, raw: bytes) -> bool:
        """Whether a masked name is mentioned as a key, escaped or not: `password=`, `"password":`, `<password`, a
        column of a table. So is it taken to be where a text is escaped many times over."""
        text = raw.replace(b"\0", b"").decode(errors="replace")  # UTF-16 has a name with zeros between
        for _ in range(_ROUNDS):
            folded = text.casefold()
            if self._key.search(folded) or ("\n" in folded.strip() and self._column.search(folded)):
                return True
            plain = _unescaped(text)
            if plain == text:
                return False
            text = plain
        return True


def _suspect_pattern(names: Iterable[str]) -> Any:
    """A name as a whole word, or an escape (of URLs, JSON, JavaScript, XML) of what it or another escape is made of.

    A zero byte counts too: the text may be UTF-16.
    """
    one_of = "|".join(re.escape(name) for name in names)
    letters = {*_MAKES_ESCAPES, *"".join(names)}
    codes = {ord(case) for letter in letters for case in (letter, letter.upper())}
    hexadecimal = "|".join(f"{code:02x}" for code in sorted(codes))
    decimal = "|".join(map(str, sorted(codes)))
    alternatives = [
        rf"(?:\b|{_AFTER_AN_ESCAPE})(?:{one_of})\b",
        rf"%(?:{hexadecimal}|e2%84%aa|c5%bf)",
        rf"[\\%]u(?:00(?:{hexadecimal})|212a|017f)",
        rf"\\x(?:{hexadecimal})",
        rf"(?:&|amp;)#(?:x0*(?:{hexadecimal}|212a|17f)|0*(?:{decimal}|8490|383))",
        _CASES_BEYOND_ASCII,
        _SPLITS_XML,
        r"\x00",
    ]
    return compile_re2("|".join(alternatives).encode(), re2_options(_MAX_MEMORY, case_sensitive=False))


def _key_pattern(one_of: str) -> re.Pattern[str]:
    """A masked name where its value may follow. The counts keep it linear in the text."""
    name = rf"(?<![\w-])(?:{one_of})(?![\w-])"
    follows = r"(?:[.\[][\w.\[\]-]{0,64}+)?+[^\w,;&=:]{0,64}+[=:]"
    tag = rf"<[/!]?(?:[\w.-]{{1,64}}:)?(?:{one_of})(?![\w-])"
    field = rf"""(?<![\w-])name\s*+=[\s"'\\]*+(?:{one_of})(?![\w-])"""
    return re.compile(rf"{name}{follows}|{tag}|{field}")


def _unescaped(text: str) -> str:
    """With one layer of escapes undone: of URLs, XML, JSON and JavaScript. What XML splits a text with goes too."""
    return _ESCAPE.sub(_spelled_out, html.unescape(unquote(_COMMENT.sub("", text))))


def _spelled_out(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    if code is not None:
        return chr(int(code, 16))
    return "\n" if escape[3] in "nrtbfv0" else escape[3]

"""Finds masked names: whether a field has one, and where a text may contain one, in any spelling.

Names are compared ignoring case, as a whole or as a word of a longer name: `user[password]`, `user.password`,
`@password` and `"my password"` match `password`; `user-password` and `passwords` do not. Checks of a text go from cheap
to exact: `may_occur` and `suspects` scan its bytes, `is_key_in` interprets it. `holds` and `is_key_in` also decode
escapes of URLs, XML, JSON and JavaScript, and UTF-8 that was decoded as Latin-1. A word in an older charset cannot be
distinguished from a non-ASCII name, so it counts as a match if there are such names.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from html.entities import html5
from itertools import pairwise
from typing import Any, Final
from unicodedata import normalize
from urllib.parse import quote, unquote

from mitmproxy_moesif.config.re2set import compile_re2, re2_options

MASK: Final = b"*****"
"""Replaces a text that must not be shown."""

BOM: Final = b"\xef\xbb\xbf"

REACH: Final = 64
"""Maximum characters between a name and the sign that makes it a key; a run of white space counts as one."""

_MAX_MEMORY: Final = 8_000_000
# Names that can be searched in the bytes of any format. With any other name, every text is a suspect.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
# Characters that form escapes, or with which XML splits a text: if these are escaped themselves, they may hide a name.
_MAKES_ESCAPES: Final = "\0\\ux#%&<!?0123456789abcdef"
_SPLITS_XML: Final = r"!--|!\[cdata\[|(?:\?|\]\])(?:>|&gt)"
_NEEDS_NO_SEMICOLON: Final = "|".join(name for name in html5 if name.isalnum() and not html5[name].isalnum())
_ESCAPED: Final = r"\\[a-z]|%[0-9a-f]{2}|u[0-9a-f]{4}|\\x[0-9a-f]{2}|\\[0-7]{1,3}"
_AFTER_AN_ESCAPE: Final = rf"{_ESCAPED}|(?:&|amp;?)(?:#x?[0-9a-f]+|{_NEEDS_NO_SEMICOLON})"
_MEANS_ANOTHER: Final = "bfnrtvux"  # letters with another meaning after a backslash
_FOLDS_TO_ASCII: Final = "\u017f\u212a\u00df\u1e9e\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"
_NAMES_OF_CHARACTERS: Final = {name: of for name, of in html5.items() if of.isascii() and of not in "&<>!?"}
_COMMENT: Final = re.compile(r"<!--(?:[^-]|-(?!->)){0,256}+-->|<!\[CDATA\[|\]\]>|<\?[^>]{0,256}+>")
_CODE: Final = re.compile(r"&#0*+([0-9]{0,7})[0-9]*+")  # limited, since Python refuses thousands of digits
_ESCAPE: Final = re.compile(
    r"[\\%]u([0-9A-Fa-f]{4})|\\(?:x([0-9A-Fa-f]{2})|([0-3][0-7]{0,2}|[4-7][0-7]?)|([^ux]))", re.DOTALL
)
_MAKES_NO_READING: Final = re.compile(r"[^%&\\<\]\xc2-\xf4]*+")
_TAKEN_FOR_LATIN_1: Final = re.compile(r"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_UNREAD: Final = "\ufffd"  # replaces invalid UTF-8, here or earlier
_ROUNDS: Final = 8
_ASSIGNS: Final = "[=:>\uff1d\uff1a\u2192]"
_BETWEEN_CELLS: Final = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029,;|\t:~]|  +")
_OF_WORDS: Final = re.compile(r"\w")
_QUOTES: Final = " \"'"


class UnmaskableError(ValueError):
    """The text's format is uncertain, so the masked fields cannot be found reliably."""


class FieldNames:
    """The compiled names of one side, request or response."""

    __slots__ = ("_beyond_ascii", "_folded", "_key", "_suspect", "_word")

    def __init__(self, names: Iterable[str]) -> None:
        given = frozenset(names)
        forms = given.union(normalize(form, name) for name in given for form in ("NFC", "NFD"))
        self._folded = frozenset(name.casefold() for name in forms)
        self._beyond_ascii = not all(map(str.isascii, given))  # before folding, which turns `straße` into `strasse`
        one_of = "|".join(re.escape(name) for name in sorted(self._folded, key=len, reverse=True) if name) or r"(?!)"
        # Hyphens are part of a word, but not at its ends: `user-password` is another name, `--password` is not.
        begin, name = r"(?<![\w-])", rf"(?:{one_of})(?!-{{0,9}}\w)"
        if self._beyond_ascii:
            begin, name = rf"(?<![\w{_UNREAD}-])", rf"(?:{name}|\w*+{_UNREAD}[\w{_UNREAD}]*+)"
        self._word = re.compile(rf"{begin}-*{name}")
        self._key = re.compile(rf"{begin}(?:-*{name}(?:\s++|\S){{0,{REACH}}}?{_ASSIGNS}|-+{name})")
        self._suspect = _suspect_pattern(self._folded) if all(map(_PLAIN.fullmatch, given)) else None

    def holds(self, name: str | bytes) -> bool:
        """Whether the field with this name is masked."""
        if isinstance(name, str):
            return _some_reading(name, self._is)
        try:
            return _some_reading(name.decode(), self._is)
        except UnicodeDecodeError:
            return self._beyond_ascii or _some_reading(name.decode("latin-1"), self._is)

    def ends(self, name: bytes) -> bool:
        """Whether the last word of this name is a masked name."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = name.decode("latin-1")
        folded = text.casefold()
        end = max((found.end() for found in self._word.finditer(folded)), default=None)
        return end is not None and _OF_WORDS.search(folded, end) is None

    def _is(self, name: str) -> bool:
        folded = name.casefold()
        return folded in self._folded or self._word.search(folded) is not None

    def may_occur(self, raw: bytes) -> bool:
        """False if nothing inside `raw` can have a masked name, at any depth or escaping. Cheap."""
        return self._suspect is None or self._suspect.search(raw) is not None

    def suspects(self, raw: bytes) -> Iterable[int] | None:
        """Positions in `raw` of possible masked names, or of escapes that may form one, in order; None: anywhere."""
        return None if self._suspect is None else (found.end() - 1 for found in self._suspect.finditer(raw))

    def is_key_in(self, raw: bytes) -> bool:
        """Whether a masked name is used as a key: `=`, `:`, `>` or an arrow follows within `REACH`, it is written like
        an option (`--password`), or is a cell in a text of several lines. Text escaped too often counts as True.
        """
        texts = [raw.decode(errors="replace")]
        if self._beyond_ascii and b"\0" in raw:
            texts += (raw.decode(encoding, "ignore") for encoding in ("utf-16-le", "utf-16-be"))
        return any(_some_reading(text, self._is_key_in) for text in texts)

    def _is_key_in(self, text: str) -> bool:
        folded = text.casefold()
        if self._word.search(folded) is None:
            return False
        return self._key.search(folded) is not None or self._is_cell_in(folded)

    def _is_cell_in(self, folded: str) -> bool:
        if len(folded.strip().splitlines()) < 2:
            return False
        cells = {cell.strip(_QUOTES) for cell in _BETWEEN_CELLS.split(folded)}
        return any(cell in self._folded or (len(cell.split()) == 1 and self._is(cell)) for cell in cells if cell)


def _suspect_pattern(names: Iterable[str]) -> Any:
    """Matches a name as a whole word, or an escape (of URLs, JSON, JavaScript, XML) of a character of a name or escape.

    Also matches a zero byte: the text may be UTF-16.
    """
    one_of = "|".join(re.escape(name) for name in names)
    letters = {*_MAKES_ESCAPES, *"".join(names)}
    folding = [letter for letter in _FOLDS_TO_ASCII if any(letter.casefold() in name for name in names)]
    codes = sorted({ord(case) for letter in letters for case in (letter, letter.upper())})
    points = codes + [ord(letter) for letter in folding]
    named = "|".join(name for name, of in _NAMES_OF_CHARACTERS.items() if letters.issuperset(of))
    pairs = sorted({pair for name in names for pair in pairwise(name) if pair[1] not in _MEANS_ANOTHER})
    capital = sorted({pair for name in names for pair in pairwise(name) if pair[1] in _MEANS_ANOTHER})
    alternatives = [
        rf"(?:\b|{_AFTER_AN_ESCAPE})(?:{one_of})\b",
        rf"[\\%]u(?:{_each(points, '04x')})",
        rf"(?:%|\\x)(?:{_each(codes, '02x')})",
        r"\\[#%&<!?0-9]",
        *(rf"{re.escape(before)}\\+{re.escape(behind)}" for before, behind in pairs),
        *(rf"{before}\\+(?-i:{behind.upper()})" for before, behind in capital),
        rf"(?:&|amp;?)(?:#(?:x0*(?:{_each(points, 'x')})|0*(?:{_each(points, 'd')}))|{named})",
        *(f"(?-i:{letter})|{quote(letter)}" for letter in folding),
        _SPLITS_XML,
        r"\x00",
    ]
    return compile_re2("|".join(alternatives).encode(), re2_options(_MAX_MEMORY, case_sensitive=False))


def _each(codes: Iterable[int], digits: str) -> str:
    return "|".join(format(code, digits) for code in codes)


def _some_reading(text: str, says: Callable[[str], bool]) -> bool:
    """Whether `says` holds for the text, or after one or more layers of escapes are undone.

    Ignores the zero bytes of UTF-16. Also True for a text with too many layers (`_ROUNDS`).
    """
    for _ in range(_ROUNDS):
        text = text.replace("\0", "")
        if says(text):
            return True
        plain = text if _MAKES_NO_READING.fullmatch(text) else _unescaped(text)
        if plain == text:
            return False
        text = plain
    return True


def _unescaped(text: str) -> str:
    """Undo one layer of escapes of URLs, XML, JSON and JavaScript. Also removes XML comments and the like, and decodes
    UTF-8 that was decoded as Latin-1."""
    text = html.unescape(_CODE.sub(r"&#\1", unquote(_COMMENT.sub("", text))))
    return _TAKEN_FOR_LATIN_1.sub(_read_again, _ESCAPE.sub(_spelled_out, text))


def _read_again(taken: re.Match[str]) -> str:
    try:
        return taken[0].encode("latin-1").decode()
    except UnicodeDecodeError:
        return taken[0]


def _spelled_out(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    if code is not None:
        return chr(int(code, 16))
    if escape[3] is not None:
        return chr(int(escape[3], 8))
    return "\n" if escape[4] in "nrtbfv" else escape[4]

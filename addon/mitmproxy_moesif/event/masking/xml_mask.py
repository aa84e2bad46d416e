"""Removes elements and attributes from XML by cutting them out of the original text; every other byte stays.

The parser (expat) finds where elements begin and end; only texts and attributes that contain something masked are
rewritten. Comments and processing instructions are removed, since they may contain masked data. Raises
`UnmaskableError` for a DOCTYPE (its entities could expand to anything), for malformed XML, and for a masked root
element.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from mitmproxy_moesif.event.masking.media_types import charset
from mitmproxy_moesif.event.masking.names import MASK, FieldNames, UnmaskableError

_TAG: Final = re.compile(rb"""<(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
_TAG_NAME: Final = re.compile(rb"<[^\s/>]++")
_ATTRIBUTE: Final = re.compile(rb"""\s++[^\s=]++\s*+=\s*+(?P<value>"[^"]*+"|'[^']*+')""")
_BEGINNING: Final = re.compile(rb"\s*+<")
_WORD: Final = re.compile(r"\w")
_ASSIGNS: Final = ("=", ":", ">")
_LONGEST_KEY: Final = 1000  # characters of a text that may be the key of the next text

# First bytes of a document in UTF-16, which cannot be searched for ASCII delimiters byte by byte.
_UTF16: Final = {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}


def begins_like_xml(raw: bytes) -> bool:
    return _BEGINNING.match(raw) is not None


def mask_xml(raw: bytes, content_type: str, names: FieldNames, mask_text: Callable[[bytes], bytes]) -> bytes:
    """The document without the elements and attributes with a masked name, with or without prefix.

    `mask_text` masks the text between two tags, or the value of an attribute.
    """
    try:
        utf16 = _UTF16.get(raw[:2])
        if utf16 is None:
            return _Cutter(raw, charset(content_type), names, mask_text).remaining()
        text = raw.decode(utf16).encode()
        return _Cutter(text, "utf-8", names, mask_text).remaining().decode().encode(utf16)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UnmaskableError("not well-formed XML") from error


class _Cut(NamedTuple):
    """A range of bytes to remove, and their replacement."""

    begin: int
    end: int
    instead: str = ""


class _Cutter:
    """Collects the ranges to remove while expat parses."""

    def __init__(
        self, raw: bytes, encoding: str | None, names: FieldNames, mask_text: Callable[[bytes], bytes]
    ) -> None:
        self._raw = raw
        self._names = names
        self._mask_text = mask_text
        self._cuts: list[_Cut] = []
        self._rootless = True
        self._depth = 0  # in a masked element: number of open elements, itself included
        self._begin = 0  # start of that element
        self._tag_end = 0  # end of the last tag
        self._is_empty = False  # whether that tag is a complete element
        self._is_inside = False  # whether that tag opened the current element
        self._text: list[str] = []  # text since that tag
        self._before, self._before_opens = "", False  # the previous text, and whether an opening tag followed it
        self._is_swallowing = False  # whether the masked part is not an element, but the rest of one after a text
        self._key = ""  # that text, if it is a key and no word of a value has followed
        self._parser = expat.ParserCreate(encoding)
        self._parser.ordered_attributes = True
        self._parser.buffer_text = True
        if names.may_occur(raw):
            self._parser.StartElementHandler = self._start
            self._parser.EndElementHandler = self._end
            self._parser.CharacterDataHandler = self._text.append
        self._parser.CommentHandler = self._comment
        self._parser.ProcessingInstructionHandler = self._instruction
        self._parser.StartDoctypeDeclHandler = self._doctype

    def remaining(self) -> bytes:
        try:
            self._parser.Parse(self._raw, True)
        finally:
            del self._parser  # it references this object's methods: a cycle that would keep the body in memory
        kept: list[bytes] = []
        position = 0
        for begin, end, instead in self._cuts:
            kept += self._raw[position:begin], instead.encode("ascii", "xmlcharrefreplace")
            position = end
        return b"".join((*kept, self._raw[position:])) if kept else self._raw

    def _start(self, name: str, attributes: list[str]) -> None:
        self._end_text(opens=True)
        self._is_inside = True
        self._tag_end = self._end_of_tag()
        self._is_empty = self._raw.endswith(b"/>", 0, self._tag_end)
        if self._depth:
            self._depth += 1
        elif self._names.holds(name):
            if self._rootless:
                raise UnmaskableError("the root element is masked")
            self._depth = 1
            self._begin = self._parser.CurrentByteIndex
        elif attributes:
            self._mask_attributes(attributes[::2], attributes[1::2])
        self._rootless = False

    def _end(self, _name: str) -> None:
        self._end_text(opens=False)
        self._is_inside = False
        if not self._is_empty:
            self._tag_end = self._end_of_tag()
        self._is_empty = False
        if not self._depth:
            return
        self._depth -= 1
        if self._depth:
            return
        if self._is_swallowing:
            self._cuts.append(_Cut(self._begin, self._parser.CurrentByteIndex, MASK.decode()))
            self._is_swallowing, self._before = False, self._key
        else:
            self._cuts.append(_Cut(self._begin, self._tag_end))

    def _end_text(self, *, opens: bool) -> None:
        """Called at each tag: mask the text before it as a whole, including its comments and CDATA sections."""
        text = "".join(self._text)
        self._text.clear()
        if self._depth or not text.strip():
            self._key = "" if _WORD.search(text) else self._key
            return
        goes_on = self._before_opens or not self._is_inside or self._before.rstrip().endswith(_ASSIGNS)
        before = self._before if goes_on or text.lstrip().startswith(_ASSIGNS) else ""
        self._before = text if _WORD.search(text) else (before + text)[-_LONGEST_KEY:]
        self._before_opens = opens
        if self._is_key(text, before, opens):
            self._cut_comments()
            self._depth, self._begin, self._is_swallowing = 1, self._tag_end, True
            self._key = self._before if self._before.rstrip().endswith(_ASSIGNS) else ""
        elif (masked := self._masked(text)) != text:
            self._cut_comments()
            self._cuts.append(_Cut(self._tag_end, self._parser.CurrentByteIndex, escape(masked)))

    def _is_key(self, text: str, before: str, opens: bool) -> bool:
        """Whether a masked name is used as a key whose value may follow: in a following element (`pin: <b>1</b>`), or,
        if the key is in the previous text, in this one (`<b>pin:</b> 1`)."""
        is_key = self._names.is_key_in(text.encode())
        if is_key and opens:
            return True
        return before != "" and self._names.is_key_in((before if is_key else before + text).encode())

    def _cut_comments(self) -> None:
        """Discard the cuts of comments inside a text that is cut as a whole."""
        while self._cuts and self._cuts[-1].begin >= self._tag_end:
            self._cuts.pop()

    def _masked(self, text: str) -> str:
        return self._mask_text(text.encode()).decode()

    def _end_of_tag(self) -> int:
        tag = _TAG.match(self._raw, self._parser.CurrentByteIndex)
        if tag is None:
            raise UnmaskableError("a tag that cannot be found again")
        return tag.end()

    def _mask_attributes(self, names: Sequence[str], values: Sequence[str]) -> None:
        held = [self._names.holds(name) for name in names]
        masked = [self._masked(value) for value in values]
        if any(held) or masked != values:
            self._cut_attributes(held, values, masked)

    def _cut_attributes(self, held: Sequence[bool], values: Sequence[str], masked: Sequence[str]) -> None:
        """Walk the start tag in parallel with the parser's list of its attributes, which has the same order."""
        found = _TAG_NAME.match(self._raw, self._parser.CurrentByteIndex)
        for is_held, before, after in zip(held, values, masked, strict=True):
            found = found and _ATTRIBUTE.match(self._raw, found.end())
            if found is None:
                raise UnmaskableError("an attribute that cannot be found again")
            if is_held:
                self._cuts.append(_Cut(*found.span()))
            elif after != before:
                self._cuts.append(_Cut(*found.span("value"), quoteattr(after)))

    def _comment(self, _text: str) -> None:
        self._cut_until(b"-->", len(b"<!--"))

    def _instruction(self, _target: str, _text: str) -> None:
        self._cut_until(b"?>", len(b"<?"))

    def _cut_until(self, closing: bytes, opening: int) -> None:
        if not self._depth:
            begin = self._parser.CurrentByteIndex
            self._cuts.append(_Cut(begin, self._raw.index(closing, begin + opening) + len(closing)))

    def _doctype(self, *_declared: object) -> None:
        raise UnmaskableError("a DOCTYPE")

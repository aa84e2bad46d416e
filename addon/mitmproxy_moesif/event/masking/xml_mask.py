"""Elements and attributes removed from XML, cut out of the text itself; every other byte stays.

The parser (expat) says where elements begin and end; nothing is written again. Comments and processing instructions
go too, since either may hold what is masked. `UnmaskableError` for a DOCTYPE (its entities could stand for anything),
for what does not parse, and for a masked root.
"""

from __future__ import annotations

import codecs
import re
from typing import Final
from xml.parsers import expat

from mitmproxy_moesif.event.masking.media_types import charset
from mitmproxy_moesif.event.masking.names import UnmaskableError

_TAG: Final = re.compile(rb"""<(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
_TAG_NAME: Final = re.compile(rb"<[^\s/>]++")
_ATTRIBUTE: Final = re.compile(rb"""\s++[^\s=]++\s*+=\s*+(?:"[^"]*+"|'[^']*+')""")

# Beginnings of a document in UTF-16, whose text cannot be searched for ASCII delimiters byte by byte.
_UTF16: Final = {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}


def mask_xml(raw: bytes, content_type: str, names: frozenset[str]) -> bytes:
    """The document without the elements and attributes whose name is masked, with or without its prefix."""
    try:
        utf16 = _UTF16.get(raw[:2])
        if utf16 is None:
            return _Cutter(raw, charset(content_type), names).remaining()
        text = raw.decode(utf16).encode()
        return _Cutter(text, "utf-8", names).remaining().decode().encode(utf16)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UnmaskableError("not well-formed XML") from error


class _Cutter:
    """Collects, while expat reads, the byte ranges that must not stay."""

    def __init__(self, raw: bytes, encoding: str | None, names: frozenset[str]) -> None:
        self._raw = raw
        self._names = names
        self._cuts: list[tuple[int, int]] = []
        self._rootless = True
        self._depth = 0  # inside a masked element: how many elements are open from it on
        self._begin = 0  # of that element
        self._parser = expat.ParserCreate(encoding)
        self._parser.ordered_attributes = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CommentHandler = self._comment
        self._parser.ProcessingInstructionHandler = self._instruction
        self._parser.StartDoctypeDeclHandler = self._doctype

    def remaining(self) -> bytes:
        try:
            self._parser.Parse(self._raw, True)
        finally:
            del self._parser  # it holds this object's methods: a cycle that would keep the body in memory
        kept: list[bytes] = []
        position = 0
        for begin, end in self._cuts:
            kept.append(self._raw[position:begin])
            position = end
        return b"".join((*kept, self._raw[position:])) if kept else self._raw

    def _is_masked(self, name: str) -> bool:
        return name in self._names or (":" in name and name.rpartition(":")[2] in self._names)

    def _start(self, name: str, attributes: list[str]) -> None:
        if self._depth:
            self._depth += 1
        elif self._is_masked(name):
            if self._rootless:
                raise UnmaskableError("the root element is masked")
            self._depth = 1
            self._begin = self._parser.CurrentByteIndex
        elif attributes and any(map(self._is_masked, attributes[::2])):
            self._cut_attributes(attributes[::2])
        self._rootless = False

    def _end(self, _name: str) -> None:
        if not self._depth:
            return
        self._depth -= 1
        if not self._depth:
            end = self._tag_end(self._begin)
            if self._raw[end - 2 : end] != b"/>":
                end = self._raw.index(b">", self._parser.CurrentByteIndex) + 1
            self._cuts.append((self._begin, end))

    def _tag_end(self, begin: int) -> int:
        tag = _TAG.match(self._raw, begin)
        if tag is None:
            raise UnmaskableError("a tag that cannot be found again")
        return tag.end()

    def _cut_attributes(self, names: list[str]) -> None:
        """Walk the start tag beside the parser's list of its attributes, which has them in the order of the text."""
        found = _TAG_NAME.match(self._raw, self._parser.CurrentByteIndex)
        for name in names:
            found = found and _ATTRIBUTE.match(self._raw, found.end())
            if found is None:
                raise UnmaskableError("an attribute that cannot be found again")
            if self._is_masked(name):
                self._cuts.append(found.span())

    def _comment(self, _text: str) -> None:
        self._cut_until(b"-->", len(b"<!--"))

    def _instruction(self, _target: str, _text: str) -> None:
        self._cut_until(b"?>", len(b"<?"))

    def _cut_until(self, closing: bytes, opening: int) -> None:
        if not self._depth:
            begin = self._parser.CurrentByteIndex
            self._cuts.append((begin, self._raw.index(closing, begin + opening) + len(closing)))

    def _doctype(self, *_declared: object) -> None:
        raise UnmaskableError("a DOCTYPE")

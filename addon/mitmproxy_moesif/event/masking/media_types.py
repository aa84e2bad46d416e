"""Media types and the parameters of a header such as Content-Type."""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

from mitmproxy_moesif.event.masking.names import UnmaskableError

_PARAMETER: Final = re.compile(
    r""" \s*+ ; \s*+
         (?: (?P<name> [^\s=;"]++ )
             (?: \s*+ = \s*+ (?: "(?P<quoted> (?: [^"\\]++ | \\. )*+ )" | (?P<bare> [^;"]*+ ) ) )?+
         )?+ """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_ASCII_SUPERSETS: Final = ("utf-8", "ascii", "iso8859-", "cp125")


class Parameter(NamedTuple):
    """One `name=value` of a header such as Content-Type: the name in lower case, the value as sent."""

    name: str
    text: str

    @property
    def value(self) -> str:
        return _ESCAPED.sub(r"\1", self.text)


def media_type(content_type: str) -> str:
    """`Text/XML; charset=utf-8` -> `text/xml`."""
    return content_type.partition(";")[0].strip().lower()


def parameters(header: str) -> list[Parameter]:
    """The parameters after the first `;` of a header value. Raises `UnmaskableError` if they are malformed."""
    found: list[Parameter] = []
    position = header.find(";")
    end = len(header.rstrip())
    while 0 <= position < end:
        match = _PARAMETER.match(header, position)
        if match is None:
            raise UnmaskableError("malformed header parameter")
        if match["name"] is not None:
            quoted = match["quoted"]
            found.append(Parameter(match["name"].lower(), (match["bare"] or "").strip() if quoted is None else quoted))
        position = match.end()
    return found


def charset(content_type: str) -> str | None:
    """The declared charset by its Python name; None if there is none.

    Raises `UnmaskableError` for a charset that is not a superset of ASCII, since names are searched in the bytes.
    """
    values = {parameter.value.lower() for parameter in parameters(content_type) if parameter.name == "charset"}
    if len(values) > 1:
        raise UnmaskableError("several charsets")
    for value in values:
        try:
            name = codecs.lookup(value).name
        except (LookupError, ValueError) as error:
            raise UnmaskableError("unknown charset") from error
        if not name.startswith(_ASCII_SUPERSETS):
            raise UnmaskableError("a charset that is not a superset of ASCII")
        return name
    return None

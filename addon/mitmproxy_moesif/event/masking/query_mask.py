"""Parameters of URLs: `/s?token=abc&q=1` -> `/s?token=*****&q=1`, and of the URLs in a header's value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from mitmproxy_moesif.event.masking.form_mask import decoded, mask_field, mask_fields
from mitmproxy_moesif.event.masking.names import MASK, UnmaskableError
from mitmproxy_moesif.event.masking.text_mask import TextMask

_MASK: Final = MASK.decode()
_QUERY: Final = re.compile(r"[?#]")
_PATH_PARAMETER: Final = re.compile(r"((?:;|%3[Bb])([^;/=%]*+(?:%(?!3[Bb])[^;/=%]*+)*+)=)[^;/?#]++")
_WHOLE_URL: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+:)?[/?#][^\s<>\"]*+")
_MAY_BE_URL: Final = re.compile(r"[?#;]|%(?:25)*(?:3[BbFf]|23)")
_URL: Final = re.compile(r"[^\s<>\"?#]*+[?#][^\s<>\"]*+")
_MASKED_ALREADY: Final = re.compile(r"=\*{5}(?![^&;#\s<>\"])")


def mask_query(target: str, names: frozenset[str]) -> str:
    """Mask each occurrence of the parameters `names` in a URL or a `path?query`.

    Names stay as they were sent, like every other byte; a value of another name is masked inside. A fragment is
    looked at like a query, and in a path what follows a `;`. Never raises; returns `target` itself where there is
    nothing to mask.
    """
    return _compiled(names).url(target) if names else target


def mask_urls(headers: Mapping[str, str], names: frozenset[str]) -> Mapping[str, str]:
    """The same for each header whose value is a URL or has one in it: Referer, Location, Link, Refresh and others."""
    if not names or not _compiled(names).may_occur(headers.values()):
        return headers
    mask = _compiled(names)
    return {name: mask.header(value) for name, value in headers.items()}


class QueryMask:
    """The parameters, compiled once."""

    __slots__ = ("_names", "_text")

    def __init__(self, names: frozenset[str]) -> None:
        self._text = TextMask(names)
        self._names = self._text.names

    def may_occur(self, values: Iterable[str]) -> bool:
        return self._names.may_occur(_bytes("\n".join(values)))

    def url(self, url: str) -> str:
        if not self._names.may_occur(_bytes(url)):
            return url
        query = _QUERY.search(url)
        end = len(url) if query is None else query.end()
        return _PATH_PARAMETER.sub(self._path_parameter, url[:end]) + self._query(url[end:])

    def header(self, value: str) -> str:
        """What is no URL as a whole may have URLs in it; where a parameter stands beside them, all of it goes."""
        if _MAY_BE_URL.search(value) is None or not self._names.may_occur(_bytes(value)):
            return value
        if _WHOLE_URL.fullmatch(value) is not None:
            return self.url(value)
        masked = _URL.sub(lambda url: self.url(url[0]), value)
        return _MASK if self._names.is_key_in(_bytes(_MASKED_ALREADY.sub("", masked))) else masked

    def _query(self, query: str) -> str:
        try:
            masked = mask_fields(_bytes(query), self._field)
        except UnmaskableError:
            return _MASK
        return query if masked is None else masked.decode("utf-8", "surrogatepass")

    def _field(self, field: bytes) -> bytes:
        masked = mask_field(field, self._names, self._text.strict)
        return field.partition(b"=")[0] + b"=" + MASK if masked is None else masked

    def _path_parameter(self, parameter: re.Match[str]) -> str:
        return parameter[1] + _MASK if self._names.holds(decoded(_bytes(parameter[2]))) else parameter[0]


@lru_cache(maxsize=256)
def _compiled(names: frozenset[str]) -> QueryMask:
    return QueryMask(names)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

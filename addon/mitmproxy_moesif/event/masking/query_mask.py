"""Masks parameters of URLs (`/s?token=abc&q=1` -> `/s?token=*****&q=1`), also of URLs in a header's value.

If a text is ambiguous, it becomes `*****` from the masked name on, or as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from mitmproxy_moesif.event.masking.form_mask import decoded, mask_fields, mask_part
from mitmproxy_moesif.event.masking.names import MASK, UnmaskableError
from mitmproxy_moesif.event.masking.text_mask import TextMask

_MASK: Final = MASK.decode()
_PORT: Final = r"(?::[0-9]*+)?+(?=[/?#]|\Z)"
_HOST: Final = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]*+:)?+//(?:\[[0-9A-Fa-f:.]*+\]|[A-Za-z0-9._-]*+){_PORT}")
_QUERY: Final = re.compile(r"[?#]")
# In brackets or quotes, followed by nothing that could continue the text.
_ENCLOSED: Final = re.compile(r"""((?:<[^\s<>"]*+>|"[^\s<>"]*+")(?=[\s,;)\]}]|\Z))""")
_BREAK: Final = re.compile(r"""[\s<>"]""")
_WORD: Final = re.compile(r"\w")
_ASSIGNS: Final = ("=", ":", ">")  # at the end of a text, the value may follow


def mask_query(target: str, names: frozenset[str]) -> str:
    """Mask each occurrence of the parameters `names` in a URL or a `path?query`.

    Names and all other bytes stay as sent; values of other names are masked inside. A fragment is treated like a
    query, and so is each path segment with a `=`. Never raises; returns `target` itself if there is nothing to mask.
    """
    return _compiled(names).url(target) if names else target


def mask_host(authority: str, names: frozenset[str]) -> str:
    """Like `mask_query`, for the host and port of a URL, which a client may set to anything."""
    return mask_query(f"//{authority}", names).removeprefix("//")


def mask_method(method: str, names: frozenset[str]) -> str:
    """Like `mask_query`, for a method: in a malformed request it may be the whole first line."""
    return method if not names or method.isalpha() else _compiled(names).header(method)


def mask_urls(headers: Mapping[str, str], names: frozenset[str]) -> Mapping[str, str]:
    """Mask every header that uses a parameter's name as a key, such as Referer, Location or Link."""
    if not names or not _compiled(names).may_occur(headers.values()):
        return headers
    mask = _compiled(names)
    return {name: mask.header(value) for name, value in headers.items()}


class QueryMask(TextMask):
    """The compiled parameters."""

    __slots__ = ()

    def may_occur(self, values: Iterable[str]) -> bool:
        return self.names.may_occur(_bytes("\n".join(values)))

    def url(self, url: str) -> str:
        if not self.names.may_occur(_bytes(url)):
            return url
        host = _HOST.match(url)
        begin = 0 if host is None else host.end()
        query = _QUERY.search(url, begin)
        end = len(url) if query is None else query.start()
        first, *others = url[begin:end].split("/")
        if self.names.is_key_in(_bytes(first)):
            masked = self._segment(first)  # not a path: everything that follows may be the value
            return masked if _MASK in masked else _MASK
        path = "/".join((first, *map(self._segment, others)))
        masked = url[:begin] + path + url[end : end + 1] + self._query(url[end + 1 :])
        return url if masked == url else masked

    def header(self, value: str) -> str:
        """Mask possible URLs: enclosed text, and the last word. If the rest uses a parameter's name as a key, the whole
        value is masked. The rest includes enclosed text where nothing was masked, and the start of the last word."""
        if not self.names.may_occur(_bytes(value)):
            return value
        pieces = _ENCLOSED.split(value)
        last = _BREAK.split(pieces[-1])[-1]
        pieces[-1] = pieces[-1].removesuffix(last)
        masked = pieces.copy()
        masked[1::2] = [piece[0] + self.url(piece[1:-1]) + piece[-1] for piece in pieces[1::2]]
        rest = [
            before if before == after or before[-2:-1] in _ASSIGNS else " "
            for before, after in zip(pieces, masked, strict=True)
        ]
        rest.append(_WORD.split(last, maxsplit=1)[0])
        if self.names.is_key_in(_bytes(value if _is_unbalanced(value) else "".join(rest))):
            return _MASK
        return "".join((*masked, self.url(last)))

    def _segment(self, segment: str) -> str:
        try:
            raw = _bytes(segment)
            return _str(mask_part(raw, self.names, self.strict, self._instead, names_alone=False) or b"")
        except UnmaskableError:
            return _MASK

    def _query(self, query: str) -> str:
        try:
            return _str(mask_fields(_bytes(query), self.names, self.strict, self._instead))
        except UnmaskableError:
            return _MASK

    def _instead(self, name: bytes) -> bytes:
        """The replacement of a field. In `token[x]` or `token|x`, what follows the masked name may be its value."""
        return name + b"=" + MASK if self.names.ends(decoded(name)) else MASK


@lru_cache(maxsize=256)
def _compiled(names: frozenset[str]) -> QueryMask:
    return QueryMask(names)


def _is_unbalanced(value: str) -> bool:
    return value.count('"') % 2 != 0 or value.count("<") != value.count(">")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _str(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")

"""The filter for what is not captured: mitmproxy's filter expressions, with RE2 instead of a backtracking engine."""

from __future__ import annotations

import re
from typing import Any

import re2
from mitmproxy import exceptions, flowfilter

from mitmproxy_moesif.config.re2set import PatternError, RegexSet, compile_re2, re2_options
from mitmproxy_moesif.config.settings import SettingsError

MEMORY = 8 << 20
"""Maximum bytes of memory that RE2 may use for one expression; allocated only as needed."""

FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s"}


class Expression:
    """The part of `re.Pattern`'s interface that filters use."""

    def __init__(self, stock: re.Pattern[Any]) -> None:
        self.flags = stock.flags
        letters = "".join(letter for flag, letter in FLAGS.items() if stock.flags & flag)
        source = f"(?{letters})".encode() * bool(letters) + _bytes(stock.pattern)
        encodings = re2.Options.Encoding
        encoding = encodings.UTF8 if isinstance(stock.pattern, str) else encodings.LATIN1
        options = re2_options(MEMORY, encoding=encoding)
        self._set = RegexSet([(source, compile_re2(source, options))], options)

    def search(self, text: str | bytes) -> bool:
        return bool(self._set.matching(_bytes(text)))


def parse_filter(expression: str | None) -> flowfilter.TFilter | None:
    """Raises `SettingsError` with one line for an invalid filter or an expression that RE2 does not support."""
    if expression is None:
        return None
    try:
        parsed = flowfilter.parse(expression)
        _use_re2(parsed)
    except PatternError as error:
        raise SettingsError(f"skip: {expression!r} has an expression that is not supported by re2: {error}") from error
    except (ValueError, exceptions.OptionsError) as error:
        raise SettingsError(f"skip: {expression!r} is no filter expression of mitmproxy") from error
    return parsed


def _use_re2(token: Any) -> None:
    for part in getattr(token, "lst", ()):
        _use_re2(part)
    if hasattr(token, "itm"):
        _use_re2(token.itm)
    if isinstance(getattr(token, "re", None), re.Pattern):
        token.re = Expression(token.re)


def _bytes(text: str | bytes) -> bytes:
    return text.encode(errors="replace") if isinstance(text, str) else text

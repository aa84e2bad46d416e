"""HTTP/1 heads as they came, line by line: refused where another parser could read them otherwise.

Hooks see a head only after white space was trimmed and folded lines were joined. Here nothing has been done to it yet,
and no hook is asked about one that is refused: a client gets 400, and an upstream's answer becomes 502.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mitmproxy import http
from mitmproxy.net.http import http1

from mitmproxy_moesif.capture.heads import ambiguity
from mitmproxy_moesif.speedups.replacing import put_in_place, replacement

_START = re.compile(rb"[\x20-\x7e\x80-\xff]+")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


def check(lines: list[bytes]) -> None:
    """Raises `ValueError`, which quotes nothing."""
    start, *fields = lines
    if not _START.fullmatch(start) or not all(map(_FIELD.fullmatch, fields)):
        raise ValueError("The head has a line that can be read in more than one way.")


def checked[M: http.Message](read: Callable[[list[bytes]], M]) -> Callable[[list[bytes]], M]:
    """mitmproxy's own reader between two checks. Its errors quote the line, which may hold a token."""

    def read_head(lines: list[bytes]) -> M:
        check(lines)
        try:
            message = read(lines)
        except ValueError:
            raise ValueError("The head is none of HTTP/1.") from None
        if (why := ambiguity(message)) is not None:
            raise ValueError(f"The head can be read in more than one way: {why}.")
        return message

    return read_head


REPLACEMENTS = (
    replacement(http1, "read_request_head", checked(http1.read_request_head)),
    replacement(http1, "read_response_head", checked(http1.read_response_head)),
)


def install() -> None:
    put_in_place(REPLACEMENTS)

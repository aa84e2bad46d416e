"""Checks raw HTTP/1 heads line by line, and refuses those that another parser could read differently.

Hooks see a head only after white space was trimmed and folded lines were joined. Here the head is still unchanged. No
hook is called for a refused head: a client gets 400, and an upstream's response becomes 502. What remains ambiguous
after mitmproxy's parsing is checked in `capture/heads.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mitmproxy import http
from mitmproxy.net.http import http1

from mitmproxy_moesif.capture.heads import TEXT
from mitmproxy_moesif.speedups.replacing import replacement

_START = re.compile(rb"HTTP/1\.[0-9] .*|[^ ]+ [^ ]+ HTTP/1\.[0-9]")


def check(lines: list[bytes]) -> None:
    """Raises `ValueError` for an ambiguous head. The message does not quote it."""
    head = b"\n".join(lines)
    if b"\t" in lines[0] or not _START.fullmatch(lines[0]) or b"\n " in head or b"\n\t" in head:
        raise ValueError("The head has a line that can be read in more than one way.")
    if head.translate(None, TEXT + b"\n"):
        raise ValueError("The head has a control character.")


def checked[M: http.Message](read: Callable[[list[bytes]], M]) -> Callable[[list[bytes]], M]:
    """mitmproxy's own parser, after `check`. Its error messages are replaced: they quote the line, which may hold a
    token."""

    def read_head(lines: list[bytes]) -> M:
        check(lines)
        try:
            return read(lines)
        except ValueError:
            raise ValueError("The head is none of HTTP/1.") from None

    return read_head


REPLACEMENTS = (
    replacement(http1, "read_request_head", checked(http1.read_request_head)),
    replacement(http1, "read_response_head", checked(http1.read_response_head)),
)

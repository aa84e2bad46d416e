"""HTTP/1 heads as they came, line by line: refused where another parser could read them otherwise.

Hooks see a head only after white space was trimmed and folded lines were joined. Here nothing has been done to it yet,
and no hook is asked about one that is refused: a client gets 400, and an upstream's answer becomes 502. What is still
there when mitmproxy has read the lines is left to `capture/heads.py`.
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
    """Raises `ValueError`, which quotes nothing."""
    head = b"\n".join(lines)
    if b"\t" in lines[0] or not _START.fullmatch(lines[0]) or b"\n " in head or b"\n\t" in head:
        raise ValueError("The head has a line that can be read in more than one way.")
    if head.translate(None, TEXT + b"\n"):
        raise ValueError("The head has a control character.")


def checked[M: http.Message](read: Callable[[list[bytes]], M]) -> Callable[[list[bytes]], M]:
    """mitmproxy's own reader behind a check. Its errors quote the line, which may hold a token."""

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

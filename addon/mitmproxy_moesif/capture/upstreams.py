"""Failing upstreams: the kind of failure, and log lines when it starts, continues and is over."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.utils import human

from mitmproxy_moesif.capture.traffic import TROUBLES
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.log import log

_SAYS = (
    ("protocol", re.compile(r"unexpected server response|Cannot parse HTTP|HTTP/[12] protocol error|Received ")),
    ("tls", re.compile(r"Certificate|OpenSSL|.*\bTLS\b")),
    ("dns", re.compile(r".*(?:\[Errno -\d|getaddrinfo|nodename nor servname)")),
    ("refused", re.compile(rf".*\[Errno {errno.ECONNREFUSED}\]")),
    ("timed_out", re.compile(rf".*(?:\[Errno {errno.ETIMEDOUT}\]|timed out)")),
    ("unreachable", re.compile(rf".*\[Errno (?:{errno.EHOSTUNREACH}|{errno.ENETUNREACH})\]")),
    ("closed", re.compile(r".*(?:closed|reset)", re.IGNORECASE)),
)

AGAIN = 60.0
"""Seconds between two log lines about the same upstream."""

MOST = 1000
"""Maximum number of failing upstreams to keep track of."""


def trouble_of(flow: http.HTTPFlow) -> str:
    """The kind of failure, a key of `TROUBLES`. mitmproxy's message is not shown, because it may quote the input."""
    if flow.error is None:
        return "protocol"  # we refused the response
    if flow.response is not None:
        return "cut"
    message = flow.error.msg[:500]
    return next((trouble for trouble, says in _SAYS if says.match(message)), "other")


def name_of(flow: http.HTTPFlow) -> str:
    """Host and port of the upstream."""
    return human.format_address(flow.server_conn.address or (flow.request.host, flow.request.port))


@dataclass(slots=True)
class Failing:
    """Since when (monotonic seconds), how many requests failed, and whether this was logged."""

    since: float
    requests: int = 0
    told: bool = False


class Upstreams:
    """Logs that an upstream fails, once a minute while it does, and that it answers again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self.failing: dict[str, Failing] = {}

    def failed(self, upstream: str, trouble: str) -> None:
        now = self._clock()
        if len(self._told_at) >= MOST:
            self._told_at.clear()
            self.failing.clear()
        state = self.failing.setdefault(upstream, Failing(now))
        state.requests += 1
        if now - self._told_at.get(upstream, -AGAIN) >= AGAIN:
            self._told_at[upstream] = now
            state.told = True
            many = f"; {state.requests} requests failed in {now - state.since:.0f} s" if state.requests > 1 else ""
            log.warning("moesif: the upstream %s fails: %s%s", upstream, TROUBLES[trouble], many)

    def answered(self, upstream: str) -> None:
        if (state := self.failing.pop(upstream, None)) is not None and state.told:
            seconds = self._clock() - state.since
            log.warning(
                "moesif: the upstream %s answers again; %s failed in %.0f s",
                upstream,
                number_of(state.requests, "request"),
                seconds,
            )

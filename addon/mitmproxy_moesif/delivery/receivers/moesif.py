"""Sends batches to Moesif's collector: POST {api_endpoint}/v1/events/batch.

Each call has one overall deadline: `connect_timeout` + `send_timeout`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.receivers import said
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict
from mitmproxy_moesif.delivery.receivers.http import Poster
from mitmproxy_moesif.web.session import UNAUTHORIZED, network_reason

REFUSED = frozenset({400, 413, 422})
WHATEVER_IS_SENT = frozenset({401, 402, 408, 429})
MAX_RETRY_AFTER = 600.0

LEVEL = 1
"""Compression level: takes a third of the time of zlib's default, for an eighth more bytes."""

AnswerHeaders = Callable[[requests.Response], None]


class MoesifReceiver:
    """One account at one endpoint. For one thread; `on_answer` is called with each response (for its ETag headers)."""

    def __init__(self, settings: Settings, on_answer: AnswerHeaders = lambda _: None) -> None:
        self._url = f"{settings.api_endpoint}/v1/events/batch"
        self._compress = settings.enable_compression
        self._on_answer = on_answer
        self._secret = settings.application_id.get_secret_value()
        headers = {
            "X-Moesif-Application-Id": self._secret,
            **({"Content-Encoding": "deflate"} if self._compress else {}),
        }
        connect, send = settings.connect_seconds, settings.send_seconds
        self._poster = Poster(self._url, headers, connect, send, send, connect + send)

    def send(self, events: Sequence[bytes]) -> Outcome:
        body = b"[" + b",".join(events) + b"]"
        if self._compress:
            body = zlib.compress(body, LEVEL)
        try:
            response = self._poster.post(body)
        except (requests.RequestException, OSError) as error:
            return Outcome(Verdict.UNAVAILABLE, network_reason(error, self._url))
        self._on_answer(response)
        return outcome_of(response, self._said(response.status_code, events))

    def _said(self, status: int, events: Sequence[bytes]) -> str:
        """The response's reason. Empty for a refused batch, which is halved until the event at fault is found."""
        if not 400 <= status < 500 or (status in REFUSED and len(events) > 1):
            return ""
        return said.reason(self._poster.answer, b"".join(events), self._secret)

    def close(self) -> None:
        self._poster.close()


def outcome_of(response: requests.Response, why: str) -> Outcome:
    """The outcome of a status: 2xx accepted; 400, 413, 422 refused; 401, 402, 403 unauthorized; others unavailable."""
    status = response.status_code
    reason = f"status {status}: {why}" if why else f"status {status}"
    if 200 <= status < 300:
        return Outcome(Verdict.ACCEPTED, reason)
    if status in REFUSED:
        return Outcome(Verdict.REFUSED, reason)
    after = retry_after(response.headers)
    for_content = status not in WHATEVER_IS_SENT and after is None
    if status in UNAUTHORIZED:
        return Outcome(Verdict.UNAUTHORIZED, reason, for_content=for_content)
    return Outcome(Verdict.UNAVAILABLE, reason, after, for_content)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from seconds or a date (relative to the response's Date, if any), at most 10 minutes."""
    if (header := headers.get("Retry-After")) is None:
        return None
    value = header.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), MAX_RETRY_AFTER)
    due = _http_date(value)
    if due is None:
        return None
    now = _http_date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max(0.0, (due - now).total_seconds()), MAX_RETRY_AFTER)


def _http_date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)

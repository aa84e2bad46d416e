"""Batches to Moesif's collector: POST {api_endpoint}/v1/events/batch.

Each call has one deadline over all of it (`connect_timeout` + `send_timeout`): the library's timeouts are per read, so
a server that drips a byte a second would hold the sender for ever. At the deadline the connection is shut down.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from mitmproxy_moesif import __version__
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict

REFUSED = frozenset({400, 413, 422})
UNAUTHORIZED = frozenset({401, 402, 403})
MAX_RETRY_AFTER = 600.0
MAX_ANSWER_BYTES = 65_536

AnswerHeaders = Callable[[requests.Response], None]


class MoesifReceiver:
    """One account at one endpoint. For one thread; `on_answer` is told of each answer (its ETag headers)."""

    def __init__(self, settings: Settings, on_answer: AnswerHeaders = lambda _: None) -> None:
        self._url = f"{settings.api_endpoint}/v1/events/batch"
        self._timeout = (settings.connect_seconds, settings.send_seconds)
        self._keepalive = settings.keepalive / 1000
        self._compress = settings.enable_compression
        self._on_answer = on_answer
        headers = {
            "X-Moesif-Application-Id": settings.application_id.get_secret_value(),
            "Content-Type": "application/json",
            "User-Agent": f"mitmproxy-moesif/{__version__}",
            **({"Content-Encoding": "deflate"} if self._compress else {}),
        }
        self._session = deadline_session()
        # Prepared once: what stays the same from batch to batch takes longer than to send one.
        self._request = self._session.prepare_request(requests.Request("POST", self._url, headers=headers))
        self._connection: dict[str, Any] = dict(
            self._session.merge_environment_settings(self._url, {}, None, None, None)
        )
        self._used = time.monotonic()
        # It tells of each call, and of half an answer with a traceback: what went wrong is told by the sender.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def send(self, events: Sequence[bytes]) -> Outcome:
        body = b"[" + b",".join(events) + b"]"
        if self._compress:
            body = zlib.compress(body)
        if time.monotonic() - self._used > self._keepalive:
            self.close()
        try:
            with self._session.deadline(sum(self._timeout)):
                response = self._post(body)
                _drain(response)
        except (requests.RequestException, OSError) as error:
            return Outcome(Verdict.UNAVAILABLE, _network_reason(error))
        finally:
            self._used = time.monotonic()
        self._on_answer(response)
        return outcome_of(response)

    def _post(self, body: bytes) -> requests.Response:
        request = self._request.copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        options = {**self._connection, "stream": True}
        return self._session.get_adapter(self._url).send(request, timeout=self._timeout, **options)

    def close_idle(self) -> float | None:
        """Close the connection once it was idle for `keepalive`; seconds until then, None with nothing to close."""
        if not self._session.connected:
            return None
        left = self._used + self._keepalive - time.monotonic()
        if left <= 0:
            self.close()
            return None
        return left

    def close(self) -> None:
        self._session.close()


def outcome_of(response: requests.Response) -> Outcome:
    """What a status means: 2xx accepted; 400, 413, 422 refused; 401, 402, 403 unauthorized; all else: later."""
    status = response.status_code
    reason = f"status {status}"
    if 200 <= status < 300:
        return Outcome(Verdict.ACCEPTED, reason)
    if status in REFUSED:
        return Outcome(Verdict.REFUSED, reason)
    if status in UNAUTHORIZED:
        return Outcome(Verdict.UNAUTHORIZED, reason)
    return Outcome(Verdict.UNAVAILABLE, reason, retry_after(response.headers.get("Retry-After"), response.headers))


def retry_after(header: str | None, headers: Any) -> float | None:
    """Seconds to wait, from seconds or a date (against the answer's own Date where it has one), at most 10 minutes."""
    if header is None:
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


def _network_reason(error: Exception) -> str:
    """The kind of failure alone: messages of the library quote what they were given."""
    if isinstance(error, requests.ConnectTimeout):
        return "connecting timed out"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__


def _drain(response: requests.Response) -> None:
    """Read the answer's body so that the connection can be used again; a long one is not worth it."""
    response.raw.read(MAX_ANSWER_BYTES)
    if response.raw.closed or not response.raw.isclosed():
        response.close()


class deadline_session(requests.Session):  # noqa: N801 - used as a factory
    """A session whose calls end at a deadline over connecting, sending and reading."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets = _Sockets()
        self._watchdog = _Watchdog(self._sockets.shut_down)
        adapter = _Adapter(self._sockets)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    @property
    def connected(self) -> bool:
        return self._sockets.any()

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        self._watchdog.watch(seconds)
        try:
            yield
        finally:
            self._watchdog.rest()

    def close(self) -> None:
        super().close()
        self._sockets.forget()


class _Watchdog:
    """Calls `act` when what began with `watch` did not come to `rest` in time. One call at a time.

    Its thread outlives a call, since starting one takes as long as sending a batch, and ends when none came for long.
    """

    IDLE_SECONDS = 60.0

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._condition = threading.Condition()
        self._due: float | None = None
        self._wakes = 0.0  # when the thread looks again
        self._running = False

    def watch(self, seconds: float) -> None:
        with self._condition:
            self._due = time.monotonic() + seconds
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="moesif-watch", daemon=True).start()
            elif self._due < self._wakes:
                self._condition.notify()

    def rest(self) -> None:
        with self._condition:
            self._due = None

    def _run(self) -> None:
        with self._condition:
            end = time.monotonic() + self.IDLE_SECONDS
            while self._due is not None or time.monotonic() < end:
                now = time.monotonic()
                if self._due is not None and self._due <= now:
                    self._due = None
                    self._act()
                if self._due is not None:
                    end = self._due + self.IDLE_SECONDS
                self._wakes = end if self._due is None else self._due
                self._condition.wait(self._wakes - now)
            self._running = False


class _Sockets:
    """Duplicates of the sockets under a session's connections: TLS hides the original while it shakes hands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._forget()  # one connection at a time
            self._duplicates.append(socket.socket(fileno=os.dup(sock.fileno())))

    def any(self) -> bool:
        return bool(self._duplicates)

    def shut_down(self) -> None:
        with self._lock:
            for duplicate in self._duplicates:
                with suppress(OSError):
                    duplicate.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for duplicate in self._duplicates:
            duplicate.close()
        self._duplicates = []


class _Adapter(HTTPAdapter):
    def __init__(self, sockets: _Sockets) -> None:
        self._moesif_sockets = sockets
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        sockets = self._moesif_sockets

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                sock = super()._new_conn()
                sockets.add(sock)
                return sock

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                sock = super()._new_conn()
                sockets.add(sock)
                return sock

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

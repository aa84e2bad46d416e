"""An HTTP client's session whose calls end at a deadline.

    with DeadlineSession() as session, session.deadline(5):
        session.get(url)

The timeouts of `requests` are per read, so a server that sends a byte per second would block the caller for ever. At
the deadline the connection is shut down, and the call raises the same error as for a broken connection. Sending has its
own timeout, because `requests` applies the connect timeout to sending a whole body.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

from mitmproxy_moesif.web.loopback import is_loopback

UNAUTHORIZED = frozenset({401, 402, 403})
"""Statuses with which a collector refuses the application id."""


class DeadlineSession(requests.Session):
    """A session whose calls end at a deadline for connecting, sending and reading together. One call at a time.

    `sending`: the part of it, in seconds, allowed for sending a request; None for all that is left.
    """

    def __init__(self, sending: float | None = None) -> None:
        super().__init__()
        # It logs each call, and broken responses with a traceback; the caller already logs what went wrong.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._socket = _Socket()
        self._watchdog = _Watchdog(self._socket.shut_down)
        adapter = _Adapter(self._socket, sending)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        self._watchdog.watch(seconds)
        try:
            yield
        finally:
            self._watchdog.rest()

    def merge_environment_settings(self, url: Any, *given: Any) -> Any:
        """Proxies and authorities from the environment; requests to this machine never use a proxy."""
        settings = super().merge_environment_settings(url, *given)
        if is_loopback(urlsplit(str(url)).hostname or ""):
            settings["proxies"] = {}
        if settings["verify"] is True:
            settings["verify"] = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
        return settings

    def close(self) -> None:
        super().close()
        self._socket.follow(None)
        self._watchdog.close()


class _Watchdog:
    """Calls `act` if `rest` is not called in time after `watch`. One call at a time.

    Its thread is kept between calls, since starting one takes as long as sending a batch. It ends with `close` until
    the next call, and after a long idle time.
    """

    IDLE_SECONDS = 60.0

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._condition = threading.Condition()
        self._due: float | None = None
        self._wakes = 0.0  # when the thread next wakes up
        self._running = False
        self._closed = False

    def watch(self, seconds: float) -> None:
        with self._condition:
            self._due = time.monotonic() + seconds
            self._closed = False
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="moesif-watch", daemon=True).start()
            elif self._due < self._wakes:
                self._condition.notify()

    def rest(self) -> None:
        with self._condition:
            self._due = None

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _run(self) -> None:
        with self._condition:
            end = time.monotonic() + self.IDLE_SECONDS
            while self._due is not None or (not self._closed and time.monotonic() < end):
                now = time.monotonic()
                if self._due is not None and self._due <= now:
                    self._due = None
                    self._act()
                if self._due is not None:
                    end = self._due + self.IDLE_SECONDS
                self._wakes = end if self._due is None else self._due
                self._condition.wait(self._wakes - now)
            self._running = False


class _Socket:
    """A duplicate of the socket of a session's connection: TLS hides the original during its handshake."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._duplicate: socket.socket | None = None

    def follow(self, sock: socket.socket | None) -> None:
        """Use another connection from now on, or none."""
        with self._lock:
            if self._duplicate is not None:
                self._duplicate.close()
            self._duplicate = socket.socket(fileno=os.dup(sock.fileno())) if sock is not None else None

    def shut_down(self) -> None:
        with self._lock, suppress(OSError):
            if self._duplicate is not None:
                self._duplicate.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    def __init__(self, followed: _Socket, sending: float | None) -> None:
        self._moesif_followed = followed
        self._moesif_sending = sending
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        followed, sending = self._moesif_followed, self._moesif_sending

        def following(pool: Any) -> Any:
            class Connection(pool.ConnectionCls):  # type: ignore[misc]
                def _new_conn(self) -> Any:
                    sock = super()._new_conn()
                    followed.follow(sock)
                    return sock

                def request(self, *given: Any, **named: Any) -> Any:
                    if self.sock is None:
                        self.connect()
                    self.timeout = sending  # urllib3 sets it on the socket
                    return super().request(*given, **named)

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        self._moesif_pools = {"http": following(HTTPConnectionPool), "https": following(HTTPSConnectionPool)}
        self.poolmanager.pool_classes_by_scheme = self._moesif_pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._moesif_pools
        return manager


def network_reason(error: BaseException, url: str) -> str:
    """A network error with a URL's host, in words. The libraries' own messages quote their input."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    kinds = tuple(causes(error))

    def is_any(*wanted: type[BaseException]) -> bool:
        return any(isinstance(kind, wanted) for kind in kinds)

    if is_any(requests.exceptions.ProxyError):
        return f"the proxy toward {host} (HTTP_PROXY, HTTPS_PROXY, NO_PROXY) does not forward the request"
    if is_any(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        return f"{host}, or the proxy toward it (HTTP_PROXY, HTTPS_PROXY), cannot be used: moesif-proxy doctor says why"
    if is_any(socket.gaierror):
        return f"the name {parts.hostname} is not known to DNS"
    if is_any(ConnectionRefusedError):
        return f"{host} refuses connections: nothing listens there"
    if is_any(ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not trusted (SSL_CERT_FILE names an authority of your own)"
    if is_any(ssl.SSLError, requests.exceptions.SSLError):
        return f"the TLS handshake with {host} failed"
    if is_any(requests.ConnectTimeout):
        return f"connecting to {host} timed out"
    if is_any(requests.Timeout, TimeoutError):
        return f"no answer from {host} in time"
    if is_any(requests.ConnectionError, ConnectionError):
        return f"the connection to {host} broke"
    return type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, including what urllib3 keeps as `reason`."""
    for _ in range(10):
        if error is None:
            return
        yield error
        inner = [each for each in (getattr(error, "reason", None), *error.args) if isinstance(each, BaseException)]
        error = inner[0] if inner else error.__cause__ or error.__context__

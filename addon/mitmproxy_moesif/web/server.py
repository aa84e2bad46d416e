"""A listener's sockets and thread: it has its own asyncio loop, so that slow clients do not affect the traffic."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress

from tornado.netutil import bind_sockets

from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.web.access import MAX_PORT, Address

STOP_SECONDS = 2.0


def bind(what: str, address: Address) -> list[socket.socket]:
    """Listening sockets, one for each address of the name. Raises `OSError` with one line that begins with `what`."""
    try:
        if not 0 <= address.port <= MAX_PORT:  # the resolver would use it modulo 65536
            raise ValueError(f"a port is a number from 0 to {MAX_PORT}")
        return bind_sockets(address.port, address.host)
    except (OSError, ValueError) as error:  # an invalid host name is a ValueError (UnicodeError)
        why = (isinstance(error, OSError) and error.strerror) or error
        raise OSError(f"{what}: cannot listen on {address}: {why}") from None


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def url_of(host: str, port: int) -> str:
    """The URL without trailing slash; loopback if the host means all interfaces."""
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{Address(name, port)}"


class ServerThread:
    """Enters `service` in its own loop and thread on `start`, and exits it on `stop`. Can be started only once."""

    def __init__(self, name: str, service: AbstractAsyncContextManager[object]) -> None:
        self._service = service
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Returns once the service is entered; raises any exception of entering it."""
        self._thread.start()
        try:
            self._loop.result()
        except Exception:
            self._thread.join()
            raise
        except BaseException:  # Ctrl-C: the service may have been entered, or be about to
            self.stop()
            raise

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Wait at most `timeout` seconds for the service's end. No effect before `start` or the second time."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has already ended
                self._loop.result().call_soon_threadsafe(self._ending.set)
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - raised again by `start`, or else logged
            if self._loop.done():
                log.error("moesif: %s has ended: %s", self._thread.name, describe(error))
            else:
                self._loop.set_exception(error)

    async def _serve(self) -> None:
        async with self._service:
            self._loop.set_result(asyncio.get_running_loop())
            await self._ending.wait()

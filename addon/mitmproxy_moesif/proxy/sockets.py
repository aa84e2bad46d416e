"""The sockets that a proxy listens on, for several processes on one port, with one-line errors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any


def open_sockets(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Bind a socket for each address of `host`, without listening. `shared`: with other processes (SO_REUSEPORT).

    Port 0 picks one free port for all addresses. Raises `OSError` with one line.
    """
    opened: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if port == 0 and opened:
                address = (address[0], opened[0].getsockname()[1], *address[2:])
            opened.append(_bind(family, address, shared=shared))
    except OSError as error:
        close_all(opened)
        raise OSError(cannot_listen(host, port, error)) from error
    return opened


def cannot_listen(host: str, port: int, error: OSError) -> str:
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
    return f"cannot listen on {host or '*'}:{port}: {reason}"


def close_all(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found if _has(family)))


def _has(family: int) -> bool:
    """Whether the machine supports this address family. Names resolve to IPv6 addresses even if IPv6 is off."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _bind(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    # asyncio turns off Nagle's algorithm only if a socket's protocol is TCP; accepted sockets inherit the protocol.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound

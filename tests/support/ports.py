"""Ports for what is to listen later on: none that the kernel may give to somebody else until then."""

from __future__ import annotations

import random
import socket
from itertools import count

# Below the range of Linux' `ip_local_port_range`, from which connections and listeners on port 0 get theirs.
_FIRST, _LAST = 10_000, 32_000
_next = count(random.randrange(_LAST))  # each process of the tests begins elsewhere


def free_port() -> int:
    """One on 127.0.0.1 that nobody listens on now; another one at each call."""
    while True:
        port = _FIRST + next(_next) % (_LAST - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

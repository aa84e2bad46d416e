"""Ports for what is to listen later on: none that the kernel may give to somebody else until then."""

from __future__ import annotations

import os
import random
import socket
from itertools import count

# Below the range of Linux' `ip_local_port_range`, from which connections and listeners on port 0 get theirs. Each of
# pytest's workers has its own tenth of them, and each process begins elsewhere in it.
_SHARE = 2_000
_FIRST = 10_000 + _SHARE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10)
_next = count(random.randrange(_SHARE))


def free_port() -> int:
    """One on 127.0.0.1 that nobody listens on now; another one at each call."""
    while True:
        port = _FIRST + next(_next) % _SHARE
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

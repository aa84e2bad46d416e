"""The upstream: a body of the pool for each path. A process of its own: `python -m tests.soak.upstream SEED`."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

from tests.soak.bodies import PLAIN, body_pool
from tests.soak.children import serve_commands
from tests.support import wire
from tests.support.listener import Listener

JSON = [("Content-Type", "application/json; charset=utf-8")]


class Upstream:
    def __init__(self, seed: int) -> None:
        self._answers = [wire.response(200, JSON, body, reason="OK") for body in body_pool(seed)]
        self.listener = Listener(self._serve)

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection.makefile("rb")) as stream:
            while head := wire.read_head(stream):
                wire.read_request_body(stream, head)
                path = head.start.split(b" ")[1].partition(b"?")[0].decode()
                number = int(path.removeprefix(PLAIN)) if path.startswith(PLAIN) else 0
                connection.sendall(self._answers[number])


def main() -> None:
    upstream = Upstream(int(sys.argv[1]))
    serve_commands(upstream.listener.port, lambda _: {})
    upstream.listener.close()


if __name__ == "__main__":
    main()

"""Whether the proxy in this container takes connections: `python healthcheck.py [port]`, exit code 0 or 1."""

from __future__ import annotations

import socket
import sys

SECONDS = 3


def main(arguments: list[str]) -> int:
    address = ("127.0.0.1", int(arguments[0]) if arguments else 8080)
    try:
        socket.create_connection(address, timeout=SECONDS).close()
    except OSError as error:
        sys.stderr.write(f"no connection to {address[0]}:{address[1]}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

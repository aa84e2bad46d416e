"""Whether the proxy in this container works: `python healthcheck.py [port]`, exit code 0 or 1, and one line.

It takes connections at `port`, and where MOESIF_ADMIN_LISTEN opens the addon's listener, `/health` is answered there,
which a process that hangs does not do. An answer of 503 is shown and does not count as a failure: it says that Moesif
has been away for long, for which nobody may restart the proxy or take it out of the traffic. That is to be alerted on
elsewhere: `moesif_oldest_waiting_seconds` in `/metrics`, or `/health` itself.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

SECONDS = 2
HERE = "127.0.0.1"
EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened at


def main(arguments: list[str], listener: str) -> int:
    port = int(arguments[0]) if arguments else 8080
    try:
        socket.create_connection((HERE, port), timeout=SECONDS).close()
        told = asked(listener) if listener else "takes connections"
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        sys.stderr.write(f"no answer: {why}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0


def asked(listener: str) -> str:
    """What `/health` answers at `HOST:PORT`, which no token is needed for. Raises `OSError` and `HTTPException`."""
    host, _, port = listener.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection(HERE if host in EVERYWHERE else host, int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        told = answer.read(1000).decode(errors="replace").strip()
    finally:
        connection.close()
    if answer.status not in (200, 503):
        raise http.client.HTTPException(f"/health at {listener} answers {answer.status}")
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("MOESIF_ADMIN_LISTEN", "").strip()))

"""Python programs without the cost of their imports: each is forked from a process that has imported what they need.

Importing mitmproxy and this project takes longer than most tests of them. What is forked begins its script at the first
line, with its own arguments, environment, folder and output.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.programs import MOST, place, run

PRELOADED = (
    "mitmproxy.tools.main",
    "mitmproxy.tools.dump",
    "confluent_kafka",
    "coverage",
    "jwt",
    "msgspec",
    "orjson",
    "prometheus_client",
    "pydantic",
    "re2",
    "requests",
    "tornado.platform.asyncio",
    "uvloop",
    "mitmproxy_moesif.addon",
    "mitmproxy_moesif.delivery.server",
    "mitmproxy_moesif.forward.forwarder",
    "mitmproxy_moesif.forward.listener",
    "mitmproxy_moesif.forward.workers",
    "mitmproxy_moesif.jwt_gate.addon",
    "mitmproxy_moesif.lane.opening",
    "mitmproxy_moesif.proxy.client_hello",
    "mitmproxy_moesif.proxy.drain",
    "mitmproxy_moesif.proxy.http1",
    "mitmproxy_moesif.proxy.http2",
    "mitmproxy_moesif.proxy.listening",
    "mitmproxy_moesif.proxy.patience",
    "mitmproxy_moesif.proxy.serve",
    "mitmproxy_moesif.proxy.tls",
    "mitmproxy_moesif.speedups.catalog",
    "mitmproxy_moesif.workers.answering",
    "mitmproxy_moesif.workers.main",
)


class Forked:
    """A program that runs, as `subprocess.Popen` has it, in a session of its own. `arguments` begin with its script.

    `spares`: how many processes it starts, and how many each of these does.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, output: int, spares: Sequence[int]
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._told, told = os.pipe()
        wanted = {"argv": self.args, "env": dict(env), "cwd": str(cwd), "spares": list(spares)}
        socket.send_fds(_server(), [json.dumps(wanted).encode()], [told, output])
        os.close(told)
        self.pid = int(self._line())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._line()))
            os.close(self._told)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self._told, 1)
            assert read, "the process that forks has ended"
            line += read
        return line


@cache
def _server() -> socket.socket:
    """A connection to the one that forks, which ends with it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
        command = [sys.executable, "-m", __name__, str(its.fileno())]
        process = subprocess.Popen(command, pass_fds=[its.fileno()], env=environment, cwd=Path(__file__).parents[2])

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _next(server: socket.socket) -> tuple[dict[str, Any], int] | None:
    """What is to run, and its output, in a process of its own; None in the one that forks, once nobody asks."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the watchers of programs that have ended
    while True:
        message, given, _, _ = socket.recv_fds(server, MOST, 2)
        if not message:
            return None
        told, output = given
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(told)
            return json.loads(message), output
        os.close(told)
        os.close(output)


def _watch(told: int) -> None:
    """Returns in a process of its own, whose parent tells its pid and how it ended."""
    if (pid := os.fork()) == 0:
        os.close(told)
        return
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    os.write(told, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(told, b"%d\n" % status)
    os._exit(0)


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    inspect.stack()  # as coverage does when it begins; what it has learned of each module's file is kept
    if (asked := _next(socket.socket(fileno=int(sys.argv[1])))) is not None:
        program, output = asked
        with Path(os.devnull).open("rb") as nothing:
            place({0: os.dup(nothing.fileno()), 1: output, 2: output})
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started with, by nohup maybe
        run(**program)

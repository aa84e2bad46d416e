"""The real interactive `mitmproxy` on a terminal: events arrive, captured bodies are shown, and it ends on its keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.support import ADDON_SCRIPT
from tests.support.addon import addon_options, only_event
from tests.support.client import exchange
from tests.support.closing import Closing
from tests.support.collector import ScriptedCollector
from tests.support.ports import free_port
from tests.support.proxy import BIN, Option, _arguments, _environment
from tests.support.upstream import ScriptedUpstream

ROWS, COLUMNS = 40, 140
SECONDS = 30

_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78]|\][^\x07]*\x07)")
"""What moves the cursor or colours what follows."""


class Console(Closing):
    """`mitmproxy` on a terminal of its own; `said` is all that it has written there, without colours."""

    def __init__(self, upstream: str, options: dict[str, Option], folder: Path) -> None:
        self.port = free_port()
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        arguments = _arguments(upstream, options, [ADDON_SCRIPT], folder, self.port)
        self.process = subprocess.Popen(
            [str(BIN / "mitmproxy"), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=_environment({"TERM": "xterm-256color"}),
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(SECONDS)
        os.close(self._terminal)

    def _read(self) -> None:
        """Until the process has ended, and nothing is left to read."""
        while True:
            ended = self.process.poll() is not None
            readable, _, _ = select.select([self._terminal], [], [], 0.05)
            try:
                data = os.read(self._terminal, 65_536) if readable else b""
            except OSError:  # nobody has the other end any more
                return
            self._written += data
            if ended and not data:
                return

    @property
    def said(self) -> str:
        return _SEQUENCE.sub("", self._written.decode(errors="replace"))

    def press(self, keys: str) -> int:
        """Type; returns where what it writes from now on begins in `said`."""
        before = len(self.said)
        os.write(self._terminal, keys.encode())
        return before

    def wait_for(self, text: str, since: int = 0) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.said[since:]:
            assert time.monotonic() < deadline, f"{text!r} did not appear in:\n{self.said[since:]}"
            assert self.process.poll() is None, f"it ended:\n{self.said}"
            time.sleep(0.02)

    def wait_until_listening(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None, f"it ended:\n{self.said}"
                assert time.monotonic() < deadline, f"it does not listen:\n{self.said}"
                time.sleep(0.02)

    def wait_exit(self) -> int:
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code


@pytest.fixture
def console(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> Iterator[Callable[..., Console]]:
    started: list[Console] = []

    def start(**options: Option) -> Console:
        started.append(Console(upstream.url, addon_options(collector, **options), tmp_path))
        started[-1].wait_until_listening()
        return started[-1]

    yield start
    for each in started:
        each.__exit__()


def test_a_streamed_exchange_is_shown_and_captured_and_it_ends_on_its_keys(
    console: Callable[..., Console], collector: ScriptedCollector
) -> None:
    terminal = console()
    answer = exchange(terminal.port, "POST", "/orders", body=b'{"shown": 1}')
    assert answer is not None
    assert answer.body == b'{"ok": true}'
    assert only_event(collector)["request"]["body"] == {"shown": 1}
    terminal.wait_for("/orders")
    since = terminal.press("\r")  # the flow that is in focus
    terminal.wait_for('"shown": 1', since)
    since = terminal.press("\t")  # its answer
    terminal.wait_for('"ok": true', since)
    terminal.press("q")
    since = terminal.press("q")
    terminal.wait_for("Quit", since)
    terminal.press("y")
    assert terminal.wait_exit() == 0
    assert "captured 1, delivered 1, waiting 0, dropped 0" in terminal.said
    assert "Traceback" not in terminal.said


def test_it_ends_on_a_signal_and_delivers(console: Callable[..., Console], collector: ScriptedCollector) -> None:
    terminal = console(flush_interval=60_000)
    exchange(terminal.port, "GET", "/last")
    terminal.wait_for("/last")
    terminal.process.send_signal(SIGTERM)
    assert terminal.wait_exit() == 0
    assert only_event(collector)["request"]["uri"].endswith("/last")
    assert "captured 1, delivered 1, waiting 0, dropped 0" in terminal.said
    assert "Traceback" not in terminal.said

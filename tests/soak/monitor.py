"""What the running proxy says of itself, and what the kernel says of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.soak import judgement
from tests.soak.journal import Journal
from tests.soak.lives import Life, Lives

INTERVAL = 0.5
TIMEOUT = 15.0


class Monitor:
    """Reads `/status` twice a second and judges each reading; `changes` are for the Admin API."""

    def __init__(self, lives: Lives, journal: Journal) -> None:
        self._lives = lives
        self._journal = journal
        self._reading = threading.Lock()

    def run(self, ending: threading.Event) -> None:
        while not ending.wait(INTERVAL):
            self.read()

    def read(self) -> Mapping[str, Any]:
        """The status now, {} while no proxy runs."""
        life = self._lives.current
        if life is None or life.ending:
            return {}
        with self._reading:
            status = self._ask(life, "GET", "/status")
            if status:
                life.status = status
                self._judge(life, status)
                self.measure(life)
            return status

    def change(self, **config: str) -> None:
        """As Kong's curl does it."""
        life = self._lives.current
        if life is not None and (plugins := self._ask(life, "GET", "/plugins")):
            form = urlencode({f"config.{name}": value for name, value in config.items()})
            self._ask(life, "PATCH", f"/plugins/{plugins['data'][0]['id']}", form)

    def _ask(self, life: Life, method: str, path: str, form: str | None = None) -> dict[str, Any]:
        """{} where there is no answer, which is a finding unless the proxy is about to end."""
        connection = HTTPConnection("127.0.0.1", life.admin_port, timeout=TIMEOUT)
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
        try:
            connection.request(method, path, form, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, f"status {answer.status}: {content[:500]!r}"
            parsed: dict[str, Any] = json.loads(content)
            return parsed
        except (OSError, HTTPException, ValueError, AssertionError) as error:
            if not life.ending:
                code = life.proxy.process.poll()
                ended = "" if code is None else f"; the proxy has ended by itself with {code}"
                self._journal.found(f"admin {method} {path[:8]}", f"{type(error).__name__}: {error}{ended}")
            return {}
        finally:
            connection.close()

    def _judge(self, life: Life, status: Mapping[str, Any]) -> None:
        if fault := judgement.identity_fault(status):
            self._journal.found("identity", f"life {life.number}: {fault}")
        if fault := judgement.drop_fault(status):
            self._journal.found("drops", f"life {life.number}: {fault}")
        if status["faults"]:
            self._journal.found("faults", f"life {life.number}: {status['faults']}")

    def measure(self, life: Life) -> None:
        """Adds a sample of its memory, all that is resident, and looks how many files are open."""
        try:
            memory = life.proxy.memory() / 1e6
            files = sum(1 for _ in Path(f"/proc/{life.proxy.pid}/fd").iterdir())
        except (OSError, AssertionError):
            return  # it has just ended
        life.samples.append((time.monotonic(), memory))
        life.files = max(life.files, files)
        if files > judgement.MAX_FILES:
            self._journal.found("files", f"life {life.number} has {files} open")

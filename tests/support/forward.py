"""`moesif-proxy forward` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support import APPLICATION_ID, REPOSITORY
from tests.support.closing import Closing
from tests.support.collector import ScriptedCollector
from tests.support.forks import Forked
from tests.support.kafka import Broker

SECONDS = 30


class Forward(Closing):
    """`options` are parameters of the proxy. It never outlives its context."""

    def __init__(self, broker: Broker, collector: ScriptedCollector, *extra: str, **options: Any) -> None:
        given = {
            "application_id": APPLICATION_ID,
            "api_endpoint": collector.url,
            "kafka_brokers": broker.address,
            "flush_interval": 50,
            "kafka_config": "session.timeout.ms=6000",
            **options,
        }
        settings = [word for name, value in given.items() for word in ("--set", f"moesif_{name}={value}")]
        self._output = tempfile.NamedTemporaryFile(prefix="forward-")  # noqa: SIM115 - as long as the process
        self.process = Forked(
            [sys.executable, "-m", "mitmproxy_moesif", "forward", *settings, *extra],
            {name: value for name, value in os.environ.items() if not name.startswith("MOESIF_")},
            REPOSITORY,
            self._output.fileno(),
            spares=[int(extra[extra.index("--workers") + 1])] if "--workers" in extra else [],
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        self._output.close()

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(one) for threads in children for one in threads.read_text().split()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not end: {self.output}") from None

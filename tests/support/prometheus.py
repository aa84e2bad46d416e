"""Debian's Prometheus as a real server on a free port of loopback."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.support.listener import Listener

SECONDS = 20
TARGET = ("__name__", "instance", "job")

Samples = dict[tuple[tuple[str, str], ...], float]


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"these tests need {name}: apt-get install prometheus"
    return found


class Prometheus:
    """One that has started; see `prometheus`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> Samples:
        """Values now, by their labels without name and target. Raises `AssertionError` for what it does not take."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=SECONDS).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return {
            tuple(sorted(item for item in one["metric"].items() if item[0] not in TARGET)): float(one["value"][1])
            for one in answer["data"]["result"]
        }

    def wait_for(self, expression: str, value: float) -> None:
        """Until it has that one value."""
        deadline = time.monotonic() + SECONDS
        while (found := list(self.query(expression).values())) != [value]:
            assert time.monotonic() < deadline, f"{expression} is {found}, not {value}"
            time.sleep(0.05)

    def rules(self) -> dict[str, dict[str, Any]]:
        """Alert rules by name, as it evaluated them last."""
        answer = requests.get(f"{self.url}/api/v1/rules", timeout=SECONDS).json()
        return {rule["name"]: rule for group in answer["data"]["groups"] for rule in group["rules"]}


@contextmanager
def prometheus(configuration: Path) -> Iterator[Prometheus]:
    """One that scrapes what this file says, until the end of the block."""
    with Listener(lambda _: None, refusing=True) as reserved:
        port = reserved.port
    command = [program("prometheus"), f"--config.file={configuration}", f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--storage.tsdb.path={configuration.parent / 'data'}", "--log.level=warn"]
    output = configuration.parent / "prometheus.log"
    with output.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=configuration.parent)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS
        while not is_ready(url):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(SECONDS)


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=SECONDS).status_code == 200
    except requests.ConnectionError:
        return False

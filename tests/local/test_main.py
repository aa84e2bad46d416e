"""`moesif-proxy collector` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from mitmproxy_moesif.local.main import main
from tests.local.events import APPLICATION, encode, make_event

SECONDS = 30


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, str]]:
    """The collector's URL and the page's. It must end with 0 when it is asked to."""
    command = [sys.executable, "-m", "mitmproxy_moesif", "collector"]
    command += ["--listen", "127.0.0.1:0", "--page", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ending = threading.Timer(SECONDS, process.kill)
        ending.start()
        try:
            assert process.stdout is not None
            urls = [process.stdout.readline().split()[-1] for _ in range(2)]
            ending.cancel()
            yield urls[0], urls[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            ending.cancel()
            process.kill()


def test_it_keeps_the_newest_and_serves_watched_files(tmp_path: Path) -> None:
    database, rules = tmp_path / "received.sqlite", tmp_path / "rules.json"
    rules.write_text('[{"_id": "r1"}]')
    options = ["--database", str(database), "--keep-events", "2", "--rules", str(rules)]
    with running(*options) as (collector, page):
        for number in (1, 2, 2, 3):
            sent = requests.post(
                f"{collector}/v1/events/batch", encode(make_event(number)), headers=APPLICATION, timeout=10
            )
            assert sent.status_code == 201
        first = requests.get(f"{collector}/v1/rules", headers=APPLICATION, timeout=10)
        rules.write_text('[{"_id": "r2"}, {"_id": "r3"}]')
        second = requests.get(f"{collector}/v1/rules", headers=APPLICATION, timeout=10)
        assert (first.json(), second.json()) == ([{"_id": "r1"}], json.loads(rules.read_text()))
        assert first.headers["ETag"] != second.headers["ETag"]
        requests.post(f"{collector}/v1/users", json={"user_id": "ada"}, headers=APPLICATION, timeout=10)
    with running(*options) as (_, page):
        ids = [event["transaction_id"] for event in requests.get(f"{page}/events", timeout=10).json()]
        assert ids == ["id-3", "id-2"]
        assert requests.get(f"{page}/users/ada", timeout=10).json() == {"user_id": "ada"}
        assert requests.get(f"{page}/events", headers={"Host": "evil.example"}, timeout=10).status_code == 403


def test_beyond_loopback_it_is_called_by_any_name() -> None:
    """As other containers do; the page is not."""
    with running("--listen", "0.0.0.0:0", "--page", "0.0.0.0:0") as (collector, page):
        named = {**APPLICATION, "Host": "collector:8091"}
        assert requests.get(f"{collector}/v1/config", headers=named, timeout=10).status_code == 200
        assert requests.get(f"{page}/events", headers={"Host": "collector:8090"}, timeout=10).status_code == 403


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "nowhere"], "--listen: must be HOST:PORT"),
        (["--rules", "/nowhere.json"], "--rules: /nowhere.json: No such file"),
        (["--config", __file__], "must be a JSON object"),
        (["--database", "/proc/nothing/x"], "cannot be used as the store"),
        (["--database", "/dev"], "/dev: cannot be used as the store of received events: Is a directory\n"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--page", "127.0.0.1:0", "--listen", "127.0.0.1:0", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

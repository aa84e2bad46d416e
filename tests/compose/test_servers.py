"""The two small servers of the stacks, and the debug stack's command line, as processes on loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.compose.tools import COMPOSE, loopback_environment
from tests.support import ADDON_SCRIPT
from tests.support.moesif_proxy import MoesifProxy
from tests.support.ports import free_port
from tests.support.proxy import BIN, Mitmdump

START_SECONDS = 30


def eventually[Value](ask: Callable[[], Value | None]) -> Value:
    """The first answer that is not None; a refused connection is none yet. Raises `AssertionError` in the end."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if (answer := ask()) is not None:
                return answer
        except requests.ConnectionError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"nothing within {START_SECONDS} s")


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these arguments as a process; it must end by itself, with 0, when it is asked to."""
    with subprocess.Popen([sys.executable, *command]) as process:
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.fixture
def echo() -> Iterator[str]:
    """Its URL."""
    port = free_port()
    with running(str(COMPOSE / "echo.py"), f"127.0.0.1:{port}"):
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: requests.get(url, timeout=10))
        yield url


@pytest.fixture
def collector(stacks: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Its URL, and its page's."""
    intake, page = free_port(), free_port()
    replaced = {"0.0.0.0:8091": f"127.0.0.1:{intake}", "0.0.0.0:8090": f"127.0.0.1:{page}"}
    given = stacks["debug"]["services"]["collector"]["command"]
    assert replaced.keys() <= set(given)
    with running("-m", "mitmproxy_moesif", *(replaced.get(word, word) for word in given)):
        eventually(lambda: requests.get(f"http://127.0.0.1:{page}/", timeout=10))
        yield f"http://127.0.0.1:{intake}", f"http://127.0.0.1:{page}"


def test_the_echo_answers_with_what_it_was_asked(echo: str) -> None:
    told = requests.post(
        f"{echo}/orders/7?n=1", json={"a": 1}, headers={"X-Consumer-Username": "ada"}, timeout=10
    ).json()
    assert (told["method"], told["path"], told["args"], told["body"]) == ("POST", "/orders/7", {"n": "1"}, {"a": 1})
    assert told["headers"]["X-Consumer-Username"] == "ada"


def test_the_collector_shows_what_it_got(collector: tuple[str, str]) -> None:
    intake, page = collector
    event = {"request": {"time": "2026-11-22T09:05:07.042", "uri": "http://h/", "verb": "GET", "headers": {}}}
    sent = requests.post(f"{intake}/v1/events", json=event, headers={"X-Moesif-Application-Id": "local"}, timeout=10)
    assert sent.status_code == 201
    assert requests.get(f"{page}/events", timeout=10).json()[0]["request"]["uri"] == "http://h/"


def test_the_page_is_called_by_loopback_alone(collector: tuple[str, str]) -> None:
    """A website that has its name point here must not read it."""
    _, page = collector
    assert requests.get(f"{page}/events", headers={"Host": "evil.example:8090"}, timeout=10).status_code == 403


def loopback(command: list[str], upstream: str, web_port: int) -> list[str]:
    """The debug stack's command line, with this machine's addresses and no two of a kind."""
    replaced = {
        "--scripts=/opt/moesif/script/moesif.py": f"--scripts={ADDON_SCRIPT}",
        "--mode=reverse:http://kong:8000": f"--mode=reverse:{upstream}",
        "--listen-host=0.0.0.0": "--listen-host=127.0.0.1",
        "--listen-port=8080": "--listen-port=0",
        "--web-host=0.0.0.0": "--web-host=127.0.0.1",
        "--web-port=8081": f"--web-port={web_port}",
    }
    assert replaced.keys() <= set(command)
    return [replaced.get(word, word) for word in command]


def test_the_debug_stack_shows_traffic_and_events(
    stacks: dict[str, dict[str, Any]], echo: str, collector: tuple[str, str], tmp_path: Path
) -> None:
    addon = stacks["debug"]["services"]["addon"]
    intake, page = collector
    web_port = free_port()
    given = {**loopback_environment(addon), "MOESIF_API_ENDPOINT": intake}
    command = loopback(addon["command"], echo, web_port)
    with ExitStack() as started:
        proxy = started.enter_context(
            Mitmdump(
                program=(str(BIN / addon["entrypoint"][0]),),
                scripts=(),
                extra_args=command,
                environment=given,
                folder=tmp_path,
            )
        )
        answer = requests.get(f"{proxy.url}/7", headers={"apikey": "demo-key-of-ada"}, timeout=10)
        assert answer.status_code == 200
        event = eventually(lambda: next(iter(requests.get(f"{page}/events?limit=1", timeout=10).json()), None))
        assert event["transaction_id"] == answer.headers["X-Moesif-Transaction-Id"]
        assert "apikey" not in event["request"]["headers"]
        web = f"http://127.0.0.1:{web_port}/flows"
        assert requests.get(web, timeout=10).status_code == 403
        shown = requests.get(web, params={"token": "a-password"}, timeout=10)
        assert shown.json()[0]["request"]["path"] == "/7"
        assert proxy.stop() == 0
        assert "moesif: captured 1, delivered 1, waiting 0, dropped 0" in proxy.output


def test_the_commands_for_scopes_are_taken(tmp_path: Path, echo: str, collector: tuple[str, str]) -> None:
    """Those of from-kong-plugin.md that add an entry, on the stacks' Kong; and which one a call gets then."""
    text = (COMPOSE / "from-kong-plugin.md").read_text()
    added = re.findall(r'`curl -X POST http://localhost:8095(/\w+/\w+/plugins) --data "name=moesif"`', text)
    assert [path.split("/")[1] for path in added] == ["services", "routes", "consumers"]
    admin = f"http://127.0.0.1:{free_port()}"
    given = {
        "moesif_application_id": "local",
        "moesif_api_endpoint": collector[0],
        "moesif_kong_config": str(COMPOSE / "kong.yml"),
        "moesif_admin_listen": admin.removeprefix("http://"),
    }
    with MoesifProxy(echo, given, folder=tmp_path):
        eventually(lambda: requests.get(f"{admin}/ping", timeout=10))
        for path in added:
            answer = requests.post(f"{admin}{path}", data={"name": "moesif"}, timeout=10)
            assert answer.status_code == 201, answer.text
            assert requests.post(f"{admin}{path}", data={"name": "moesif"}, timeout=10).status_code == 409
        everywhere = requests.get(f"{admin}/plugins/moesif", timeout=10).json()
        assert everywhere["service"] is everywhere["route"] is everywhere["consumer"] is None
        asked = {"method": "GET", "host": "localhost", "path": "/catalogue/1"}
        shown = requests.get(f"{admin}/status", params=asked, timeout=10).json()["request"]
        assert shown["why"].startswith('route "catalogue"')
        (entry,) = requests.get(f"{admin}/services/orders/plugins", timeout=10).json()["data"]
        switched = requests.patch(f"{admin}/plugins/{entry['id']}", data={"enabled": "false"}, timeout=10)
        assert switched.json()["enabled"] is False

"""`make run`: the traffic page at the port where the received events are."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from mitmproxy_moesif import cli, interrupts
from mitmproxy_moesif import run as run_module
from mitmproxy_moesif.page import main as page_main
from mitmproxy_moesif.web.access import Address
from tests.admin.test_exchanges import wait_for
from tests.recent.kept import SECRET
from tests.support.browser import without_pytest
from tests.support.ports import free_port

START_SECONDS = 60


@contextmanager
def running(*more: str, ended_by: int = signal.SIGINT) -> Iterator[list[str]]:
    """The URLs of the proxy, of its page, of its admin listener, and where Akto's records go, if they do.

    All are gone at the end.
    """
    port, page_port = free_port(), free_port()
    command = [sys.executable, "-m", "mitmproxy_moesif", "run", "--port", str(port), "--page-port", str(page_port)]
    command += more
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, whatever the tests run under
    process = subprocess.Popen(command, env=without_pytest(), **output)
    signal.signal(signal.SIGHUP, before)
    try:
        assert process.stdout is not None
        said = ""
        while " shows " not in said or "end with Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        admin = re.search(r"^admin: +(\S+)/status ", said, re.MULTILINE)
        assert admin is not None, said
        assert f" shows {admin[1]}\n" in said
        akto = re.findall(r"^akto: +(\S+)", said, re.MULTILINE)
        proxy = re.findall(r"^proxy: +(\S+)", said, re.MULTILINE)
        assert re.findall(r"^try: +curl -s (\S+)/hello", said, re.MULTILINE) == proxy
        yield [*proxy, f"http://127.0.0.1:{page_port}", admin[1], *akto]
    finally:
        process.send_signal(ended_by)
        try:
            process.communicate(timeout=START_SECONDS)  # to the end of output, which all of them have
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
        assert process.returncode == 0


def test_the_page_and_the_received_events_are_at_one_port() -> None:
    with running() as (proxy, page, admin):
        answer = requests.get(f"{proxy}/hello", headers={"X-Consumer-Username": "ada", "Cookie": SECRET}, timeout=10)
        transaction_id = answer.headers["X-Moesif-Transaction-Id"]
        detail = wait_for(admin, transaction_id, "sent")
        assert detail["captured"]["request"]["headers"]["cookie"] == SECRET
        (event,) = requests.get(f"{page}/events?user_id=ada", timeout=10).json()
        assert event == detail["event"]
        assert requests.get(f"{page}/events/{transaction_id}", timeout=10).json() == event
        assert requests.get(f"{page}/events?no=1", timeout=10).status_code == 400
        assert requests.get(page, timeout=10).json()["events"]["kept"] == 1
        assert "<title>Traffic</title>" in requests.get(page, headers={"Accept": "text/html"}, timeout=10).text
        assert requests.delete(f"{page}/events", timeout=10).json() == {"forgotten": 1}


def test_a_terminal_that_is_closed_ends_all() -> None:
    with running(ended_by=signal.SIGHUP) as (proxy, *_):
        assert requests.get(f"{proxy}/hello", timeout=10).status_code == 200


def test_under_nohup_it_outlives_its_terminal() -> None:
    told: list[int] = []
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
    try:
        interrupts.take(told.append)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert told == [signal.SIGINT, signal.SIGTERM]


def test_nothing_goes_on_where_greeting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def greet() -> None:
        raise OSError("nobody listens")

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setattr(interrupts, "take", lambda _: None)
    monkeypatch.setattr(run_module, "_listens", lambda *_: True)
    with pytest.raises(OSError, match="nobody listens"):
        run_module._supervise(["sleep", "100"], {**os.environ}, Address("127.0.0.1", 1), greet)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_it_listens_on_an_ipv6_address() -> None:
    with running("--host", "::1") as (proxy, *_):
        assert proxy.startswith("http://[::1]:")
        assert requests.get(f"{proxy}/hello", timeout=10).status_code == 200


def test_with_akto_the_collector_gets_its_records_too() -> None:
    with running("--akto") as (proxy, _, _, records):
        requests.get(f"{proxy}/hello", timeout=10)
        end = time.monotonic() + 20
        while (counts := requests.get(records, timeout=10).json())["kept"] < 1:
            assert time.monotonic() < end
        assert counts == {"kept": 1, "forgotten": {}}


def test_without_the_extra_the_received_events_are_there_and_the_line_to_type_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def supervise(command: list[str], environment: dict[str, str], listen: object, greet: Callable[[], None]) -> int:
        greet()
        seen.append(requests.get(f"http://127.0.0.1:{options.page_port}/events", timeout=10).status_code)
        return 0

    monkeypatch.setattr(page_main, "is_there", lambda: False)
    monkeypatch.setattr(run_module, "_supervise", supervise)
    monkeypatch.delenv("MOESIF_APPLICATION_ID", raising=False)
    options = cli._parse(["run", "--port", str(free_port()), "--page-port", str(free_port())])
    assert run_module.run(options) == 0
    assert seen == [200]
    said = capsys.readouterr().out
    assert "pip install 'nicegui>=3,<4'" in said
    assert "traffic:" not in said
    assert os.environ.get("MOESIF_ADMIN_LISTEN") is None


@pytest.mark.parametrize("name", ["page", "port"])
def test_a_port_that_is_taken_ends_the_start_with_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"page": free_port(), "port": free_port(), name: port}
        assert cli.main(["run", "--port", str(ports["port"]), "--page-port", str(ports["page"])]) == 1
    said = capfd.readouterr()
    another = {"port": "PORT", "page": "PAGE_PORT"}[name]
    taken_line = f"moesif: {name}: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert said.err == f"{taken_line}; for another one: make run {another}=...\n"
    assert "try:" not in said.out


@pytest.mark.parametrize("command", ["run", "debug"])
def test_a_port_that_is_given_twice_ends_the_start_with_one_line(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert cli.main([command, "--port", str(port), "--page-port", str(port)]) == 1
    taken_line = f"moesif: page: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert capfd.readouterr() == ("", f"{taken_line}; for another one: make {command} PAGE_PORT=...\n")


def test_nobody_is_greeted_where_the_proxy_does_not_start() -> None:
    command = [sys.executable, "-m", "mitmproxy_moesif", "run", "--port", str(free_port())]
    command += ["--page-port", str(free_port()), "--upstream", "nowhere"]
    ended = subprocess.run(
        command, env=without_pytest(), capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    assert ended.returncode != 0
    assert "--upstream" in ended.stderr
    assert "try:" not in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_page_of_no_proxy_says_so_at_once_and_ends_without_a_word(number: int) -> None:
    command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--listen", f"127.0.0.1:{free_port()}"]
    command += ["--admin", "http://127.0.0.1:9"]
    page = subprocess.Popen(command, env=without_pytest(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert page.stdout is not None
    assert "shows" in page.stdout.readline()
    assert page.stdout.readline() == (
        "moesif-proxy page: the proxy does not answer at http://127.0.0.1:9 (cannot connect: is this its "
        "admin_listen?); the page keeps trying\n"
    )
    page.send_signal(number)
    said, _ = page.communicate(timeout=START_SECONDS)
    assert (page.returncode, said) == (0, "")

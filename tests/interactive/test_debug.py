"""`make debug` as a process: mitmweb with the addon, in front of the embedded echo."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import requests

from mitmproxy_moesif.web.server import free_port
from tests.support.mitmweb import WebApi
from tests.support.proxy import _environment

SECONDS = 60


@contextmanager
def debugging(environment: Mapping[str, str]) -> Iterator[str]:
    """What it says once it has started. It ends with 0 on Ctrl-C."""
    ports = [("--port", free_port()), ("--web-port", free_port()), ("--page-port", free_port())]
    command = [sys.executable, "-m", "mitmproxy_moesif", "debug"]
    command += [word for name, port in ports for word in (name, str(port))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment(environment)
    )
    ending = threading.Timer(SECONDS, process.kill)
    ending.start()
    try:
        assert process.stdout is not None
        said = ""
        while "end with Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield said
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    finally:
        ending.cancel()
        process.kill()


@pytest.fixture
def said() -> Iterator[str]:
    with debugging({}) as said:
        yield said


def test_it_gives_no_advice_about_its_own_password(said: str) -> None:
    assert "password" not in said


def test_what_it_prints_is_what_can_be_opened(said: str) -> None:
    url, token = re.findall(r"^mitmweb: +(\S+)/\?token=(\S+)", said, re.MULTILINE)[0]
    proxy = re.findall(r"^proxy: +(\S+) ->", said, re.MULTILINE)[0]
    events = re.findall(r"^events: +(\S+) ", said, re.MULTILINE)[0]
    assert requests.get(f"{proxy}/hello", headers={"X-Consumer-Username": "ada"}, timeout=20).json()["path"] == "/hello"
    web = WebApi(url, token)
    flow = web.flow("/hello", lambda flow: "sent" in flow["comment"])
    assert flow["comment"].startswith("user ada · ")
    (event,) = requests.get(events, timeout=20).json()
    assert event["transaction_id"] == flow["id"]
    assert requests.get(f"{url}/flows", timeout=20).status_code == 403

"""Headless Chromium, as Debian has it, and the traffic page as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

START_SECONDS = 30


def has_chromium() -> bool:
    return _found() is not None


def chromium() -> str:
    """Where it is."""
    found = _found()
    assert found is not None, "these tests need Chromium: apt-get install chromium"
    return found


def _found() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def a_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def without_pytest() -> dict[str, str]:
    """NiceGUI takes itself for the one under test where pytest's variables are set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MOESIF_"))}


@contextmanager
def traffic_page(admin_url: str, *arguments: str, token: str = "") -> Iterator[str]:
    """`moesif-proxy page` on a free port, from when it serves to the end of the block; its URL."""
    command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--admin", admin_url, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=without_pytest() | {"MOESIF_ADMIN_TOKEN": token},
    )
    ending = threading.Timer(START_SECONDS, process.kill)
    ending.start()
    try:
        assert process.stdout is not None
        said = ""
        while " shows " not in said:
            line = process.stdout.readline()
            assert line, f"the page did not start:\n{said}"
            said += line
        ending.cancel()
        yield said.rpartition(" shows ")[0].split()[-1]
    finally:
        ending.cancel()
        process.terminate()
        process.communicate(timeout=START_SECONDS)

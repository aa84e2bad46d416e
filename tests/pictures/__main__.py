"""Makes the pictures of the traffic page and of mitmweb in .github/images: `python -m tests.pictures`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from playwright.sync_api import Browser, Page

from mitmproxy_moesif.web.server import free_port
from tests.support import REPOSITORY
from tests.support.browser import a_browser, without_pytest

FOLDER = REPOSITORY / ".github" / "images"
SIZE = {"width": 1280, "height": 860}
CALLS = (
    ("GET", "/orders/7?page=2", "ada", None),
    ("POST", "/orders", "ada", {"item": "book", "password": "open sesame", "card": {"number": "4111111111111111"}}),
    ("GET", "/status/503", "bob", None),
    ("DELETE", "/orders/7", "cy", None),
    ("PUT", "/users/ada", "ada", {"plan": "gold", "token": "t0ken"}),
    ("GET", "/delay/30", "bob", None),
)


@contextmanager
def started(command: str, until: str, **ports: int) -> Iterator[str]:
    """`make run` or `make debug` with masks, with some traffic; what it said."""
    arguments = [sys.executable, "-m", "mitmproxy_moesif", command]
    for name, port in ports.items():
        arguments += [f"--{name.replace('_', '-')}", str(port)]
    environment = without_pytest() | {"MOESIF_REQUEST_BODY_MASKS": "password,number,token"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(arguments, env=environment, text=True, **output)  # type: ignore[call-overload]
    try:
        said = ""
        while "end with Ctrl-C" not in said or until not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        for method, path, user, body in CALLS:
            headers = {"X-Consumer-Username": user, "Authorization": "Bearer secret", "Host": "api.example.com"}
            requests.request(method, f"http://127.0.0.1:{ports['port']}{path}", headers=headers, json=body, timeout=20)
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def traffic_page(browser: Browser) -> None:
    page_port = free_port()
    with started("run", " shows ", port=free_port(), page_port=page_port):
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(f"http://127.0.0.1:{page_port}/")
        page.get_by_text("/users/ada").first.wait_for()
        page.get_by_text("POST", exact=True).first.click()
        save(page, "traffic.png")


def mitmweb(browser: Browser) -> None:
    ports = {"port": free_port(), "web_port": free_port(), "page_port": free_port()}
    with started("debug", "mitmweb: ", **ports) as said:
        (url,) = re.findall(r"^mitmweb: +(\S+)", said, re.MULTILINE)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(url)
        page.locator("tr", has_text="POST").first.click()
        page.get_by_text("Response", exact=True).first.click()
        page.get_by_text("View: auto").first.click()
        page.get_by_text("moesif event").first.click()
        page.get_by_text("request_body_masks").first.wait_for()
        save(page, "mitmweb.png")


def save(page: Page, name: str) -> None:
    """When nothing moves any more."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    page.screenshot(path=FOLDER / name)
    print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size} bytes")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    with a_browser() as chromium:
        for make in (traffic_page, mitmweb):
            make(chromium)

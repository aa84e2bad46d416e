"""A tab of headless Chromium for each test, a browser for each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import a_browser

DEADLINE = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page on which nothing may fail, and that loads nothing from elsewhere."""
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.set_default_timeout(DEADLINE)
    expect.set_options(timeout=DEADLINE)
    faults: list[str] = []
    elsewhere: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: elsewhere.append(request.url) if "127.0.0.1" not in request.url else None)
    yield tab
    assert [url for url in elsewhere if not url.startswith(("data:", "blob:"))] == []
    assert faults == []
    context.close()


def rows(tab: Page) -> Any:
    return tab.locator(".ag-center-cols-container .ag-row")

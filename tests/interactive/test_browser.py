"""`make debug` in headless Chromium: what its user sees of events in mitmweb."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.interactive.test_debug import debugging
from tests.support.browser import a_browser
from tests.support.client import exchange

SECRET = "5ecre7-hunter2"
GIVEN = {
    "MOESIF_REQUEST_BODY_MASKS": "password",
    "MOESIF_RESPONSE_BODY_MASKS": "password",
    "MOESIF_SKIP": "~u /skipped",
}
DEADLINE = 20_000


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """mitmweb, when an order and a request that is not captured have come."""
    expect.set_options(timeout=DEADLINE)
    with debugging(GIVEN) as said, a_browser() as browser:
        (url,) = re.findall(r"^mitmweb: +(\S+)", said, re.MULTILINE)
        (port,) = re.findall(r"^proxy: +http://127.0.0.1:(\d+) ->", said, re.MULTILINE)
        body = json.dumps({"item": "book", "password": SECRET}).encode()
        headers = [("Content-Type", "application/json"), ("X-Consumer-Username", "ada")]
        assert exchange(int(port), "POST", "/orders", headers, body)
        assert exchange(int(port), target="/skipped")
        tab = browser.new_page()
        tab.set_default_timeout(DEADLINE)
        tab.goto(url)
        yield tab


def test_the_content_view_shows_the_event_with_marks_in_place_of_masked_members(tab: Page) -> None:
    row(tab, "/orders").click()
    tab.get_by_text("Response", exact=True).first.click()
    tab.get_by_text("View: auto").first.click()
    tab.get_by_text("moesif event", exact=True).first.click()
    expect(tab.get_by_text("‹removed by request_body_masks›")).to_be_visible()
    expect(tab.get_by_text("transaction_id")).to_be_visible()
    assert SECRET not in tab.content()


def test_the_comment_says_who_it_was_and_what_became_of_the_event(tab: Page) -> None:
    row(tab, "/orders").click()
    tab.get_by_text("Comment", exact=True).first.click()
    expect(tab.get_by_text("user ada · sent")).to_be_visible()


def test_what_is_not_captured_is_marked(tab: Page) -> None:
    expect(row(tab, "/skipped").get_by_text("⚠")).to_be_visible()
    expect(row(tab, "/orders").get_by_text("⚠")).to_have_count(0)
    row(tab, "/skipped").click()
    tab.get_by_text("Comment", exact=True).first.click()
    expect(tab.get_by_text("not captured (skip)")).to_be_visible()


def row(tab: Page, path: str) -> Locator:
    return tab.locator("tr", has_text=path)

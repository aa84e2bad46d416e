"""What strangers put into events, ids and URLs, in headless Chromium: it is text, wherever it shows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import requests
from playwright.sync_api import Page, expect

from tests.local.events import APPLICATION, make_event
from tests.local.test_main import running
from tests.page.conftest import rows
from tests.support.browser import traffic_page

OWNED = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "{{constructor.constructor('document.title=1')()}}"
)


def hostile(**more: Any) -> dict[str, Any]:
    side = {"headers": {OWNED: OWNED, "Content-Type": f"text/html;{OWNED}"}, "body": {OWNED: [OWNED]}}
    request = {"time": "2026-01-01T00:00:00", "uri": f"http://{OWNED}/{OWNED}?{OWNED}", "verb": OWNED}
    return {
        "request": request | side,
        "response": {"time": "2026-01-01T00:00:01", "status": 200} | side,
        "metadata": {"kong": {"route_name": OWNED, "service_name": OWNED}, "error": OWNED},
        **dict.fromkeys(("user_id", "company_id", "blocked_by", "session_token"), OWNED),
        **more,
    }


def post(collector: str, *events: dict[str, Any]) -> None:
    sent = requests.post(f"{collector}/v1/events/batch", json.dumps(events), headers=APPLICATION, timeout=10)
    assert sent.status_code == 201


def test_nothing_that_came_from_outside_is_run(tab: Page) -> None:
    with running() as (collector, received), traffic_page(received) as url:
        post(collector, hostile(transaction_id=OWNED))
        tab.goto(f"{url}/?filter={quote('user:' + json.dumps(OWNED))}&id={quote(OWNED, safe='')}")
        expect(tab.locator(".side")).to_have_count(2)
        expect(rows(tab)).to_have_count(1)
        for name in ("copy curl", "copy HAR", "copy JSON"):
            tab.get_by_role("button", name=name).click()
            expect(tab.get_by_text(f"copied as {name.removeprefix('copy ')}")).to_be_visible()
        tab.get_by_text("life").click()
        tab.get_by_label("filter").fill(OWNED)
        tab.get_by_role("tab", name="Overview").click()
        expect(tab.locator(".chart canvas")).to_have_count(6)
        tab.goto(f"{url}/?filter={quote(OWNED)}&id={quote(OWNED + 'x', safe='')}")
        expect(tab.get_by_text("Not found")).to_be_visible()
        assert tab.title() == "Traffic"
        assert tab.evaluate("document.querySelectorAll('img[src=x]').length") == 0


def test_an_exchange_of_any_id_is_opened(tab: Page) -> None:
    with running() as (collector, received), traffic_page(received) as url:
        for number, name in enumerate(["stream", ".", "..", "%2e", "a/b?c#d"]):
            post(collector, make_event(1, transaction_id=name, user_id=f"user-{number}"))
            tab.goto(f"{url}/?id={quote(name, safe='')}")
            expect(tab.get_by_text(f"The user is user-{number}.")).to_be_visible()


def test_an_exchange_that_is_nested_deep_is_opened(tab: Page) -> None:
    with running() as (collector, received), traffic_page(received) as url:
        deep = json.dumps(hostile(transaction_id="deep", user_id="ada"))
        deep = deep.replace(json.dumps({OWNED: [OWNED]}), '{"a":' * 1500 + "1" + "}" * 1500)
        sent = requests.post(f"{collector}/v1/events", deep, headers=APPLICATION, timeout=10)
        assert sent.status_code == 201
        tab.goto(f"{url}/?id=deep")
        expect(tab.locator(".note", has_text="nested deeper than")).to_have_count(2)

"""The traffic page of a collector alone, in headless Chromium: what an SDK has sent there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Page, expect

from tests.local.clients import wsgi_client
from tests.local.events import APPLICATION, make_event
from tests.local.test_main import running
from tests.page.conftest import rows
from tests.support.browser import traffic_page

SCRIPT = "<script>document.title='owned'</script>"
STRANGE: dict[str, Any] = {
    "metadata": SCRIPT,
    "response": {"status": 200, "time": "now", "headers": {"X-Html": SCRIPT}, "body": {"html": SCRIPT}},
    "user_id": SCRIPT,
}


def test_what_an_sdk_sent_is_listed_opened_and_copied(tab: Page) -> None:
    with running() as (collector, received), traffic_page(received) as url:
        tab.goto(url)
        expect(tab.get_by_text("No exchanges yet")).to_be_visible()
        expect(tab.get_by_text("curl -s")).to_have_count(0)
        client = [sys.executable, str(Path(wsgi_client.__file__)), collector]
        subprocess.run(client, check=True, capture_output=True, timeout=60)
        expect(rows(tab)).to_have_count(1)
        tab.get_by_label("filter").fill("user:ada path:/orders")
        rows(tab).first.click()
        expect(tab.get_by_text("The user is ada.")).to_be_visible()
        expect(tab.get_by_text("Its event was sent: received by this collector.")).to_be_visible()
        expect(tab.get_by_text('"by wsgi"')).to_be_visible()
        tab.get_by_role("button", name="copy curl").click()
        expect(tab.get_by_text("copied as curl")).to_be_visible()
        assert "/orders" in tab.evaluate("navigator.clipboard.readText()")
        tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as over plain HTTP
        tab.get_by_role("button", name="copy HAR").click()
        expect(tab.get_by_text("not copied")).to_be_visible()
        tab.get_by_role("tab", name="Overview").click()
        expect(tab.locator(".chart canvas")).to_have_count(6)
        tab.get_by_role("tab", name="Traffic").click()
        expect(rows(tab)).to_have_count(1)
        requests.delete(f"{received}/events", timeout=10)
        expect(rows(tab)).to_have_count(0)


def test_an_event_of_another_shape_is_shown_as_text(tab: Page) -> None:
    with running() as (collector, received), traffic_page(received) as url:
        tab.goto(url)
        sent = requests.post(
            f"{collector}/v1/events", json.dumps(make_event(1, **STRANGE)), headers=APPLICATION, timeout=10
        )
        assert sent.status_code == 201
        expect(rows(tab)).to_have_count(1)
        rows(tab).first.click()
        expect(tab.get_by_text(SCRIPT).first).to_be_visible()
        expect(tab.locator(".side")).to_have_count(2)
        assert tab.title() == "Traffic"

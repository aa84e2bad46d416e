"""The traffic page in headless Chromium, in front of a real proxy: what its user sees."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.admin.test_exchanges import get, start, wait_for
from tests.page.conftest import rows
from tests.recent.kept import SECRET
from tests.support.browser import traffic_page
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]
SCRIPT = "<script>document.title='owned'</script>"


def send(port: int, target: str, **headers: str) -> str:
    """A POST with a secret in it; its transaction id."""
    body = json.dumps({"card": {"pin": SECRET}, "html": SCRIPT}).encode()
    fields = [("Content-Type", "application/json"), ("Host", "api.example.com")]
    fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
    answer = exchange(port, "POST", target, fields, body=body)
    assert answer is not None
    return answer.get("x-moesif-transaction-id") or ""


def test_traffic_is_seen_filtered_and_opened(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector, request_body_masks="pin", user_id_header="x-user")
    with traffic_page(admin, "--proxy", f"http://127.0.0.1:{port}") as url:
        tab.goto(url)
        expect(tab.get_by_text("No exchanges yet")).to_be_visible()
        expect(tab.get_by_text(f"curl -s http://127.0.0.1:{port}/hello")).to_be_visible()

        orders = send(port, "/orders/7", X_User="ada", Cookie=SECRET)
        send(port, "/health")
        wait_for(admin, orders, "sent")
        expect(rows(tab)).to_have_count(2)
        expect(tab.get_by_text("No exchanges yet")).not_to_be_visible()

        box = tab.get_by_label("filter")
        box.fill("stats:5xx")
        expect(tab.get_by_text("there is no term `stats:`")).to_be_visible()
        box.fill("path:/orders user:ada")
        expect(rows(tab)).to_have_count(1)
        tab.wait_for_url("**filter=path*")

        tab.reload()
        expect(tab.get_by_label("filter")).to_have_value("path:/orders user:ada")
        expect(rows(tab)).to_have_count(1)

        rows(tab).first.click()
        expect(tab.get_by_text("The user is ada, as user_id_header in the request says.")).to_be_visible()
        expect(tab.get_by_text("request_body_masks removed request.body.card.pin.")).to_be_visible()
        expect(tab.get_by_text(SCRIPT)).to_be_visible()
        assert tab.title() == "Traffic"
        assert SECRET not in tab.content()
        assert orders in tab.url

        tab.keyboard.press("Escape")
        expect(tab.locator(".why")).to_have_count(0)


def test_with_raw_the_captured_side_is_shown_and_what_was_removed_is_marked(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector, request_body_masks="pin", recent_raw=True)
    with traffic_page(admin, "--proxy", f"http://127.0.0.1:{port}") as url:
        transaction_id = send(port, "/orders/7")
        wait_for(admin, transaction_id, "sent")
        tab.goto(f"{url}/?id={transaction_id}")
        expect(tab.get_by_text("removed by request_body_masks").first).to_be_visible()
        assert SECRET not in tab.content()
        tab.get_by_text("as captured").click()
        expect(tab.locator("mark", has_text=SECRET)).to_be_visible()

        tab.get_by_text("copy curl").click()
        expect(tab.get_by_text("copied as curl")).to_be_visible()
        copied = tab.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("curl ")
        assert SECRET not in copied

        tab.get_by_text("replay").click()
        expect(tab.get_by_text("sent again: status 200")).to_be_visible()
        expect(rows(tab)).to_have_count(2)
        first, again = upstream.requests()
        assert json.loads(first.body) == json.loads(again.body)


def test_the_filtered_exchanges_are_exported(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector, request_body_masks="pin", recent_raw=True)
    sent = [send(port, target) for target in ("/orders/1", "/orders/2", "/other")]
    wait_for(admin, sent[-1], "sent")
    with traffic_page(admin) as url:
        tab.goto(f"{url}/?filter=path:/orders")
        expect(rows(tab)).to_have_count(2)
        with tab.expect_download() as exported:
            tab.get_by_role("button", name="export events as NDJSON, masked").click()
        lines = exported.value.path().read_text().splitlines()
        assert [json.loads(line)["transaction_id"] for line in lines] == sent[:2]
        assert SECRET not in "".join(lines)


@pytest.mark.parametrize(
    ("width", "there", "told"),
    [
        (1600, ["delivery", "ms", "user", "company", "route", "bytes"], ""),
        (820, ["delivery", "ms", "user"], "no room for: company, route, bytes"),
        (420, ["host and path"], "no room for: delivery, ms, user, company, route, bytes"),
    ],
)
def test_columns_for_which_there_is_no_room_are_named(
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tab: Page,
    width: int,
    there: list[str],
    told: str,
) -> None:
    _, admin = start(mitmdump, upstream, collector)
    with traffic_page(admin) as url:
        tab.set_viewport_size({"width": width, "height": 700})
        tab.goto(url)
        expect(tab.locator(".hidden-columns")).to_have_text(told)
        for name in there:
            expect(tab.locator(".ag-header-cell-text", has_text=re.compile(f"^{name}$"))).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("width", [1600, 820, 420])
def test_nothing_lies_over_something_else_or_outside(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page, width: int
) -> None:
    port, admin = start(mitmdump, upstream, collector)
    with traffic_page(admin, "--proxy", f"http://127.0.0.1:{port}") as url:
        tab.set_viewport_size({"width": width, "height": 700})
        tab.goto(url)
        expect(tab.get_by_text("curl", exact=False).first).to_be_visible()
        copy, *lines = tab.evaluate(BOXES_OF_CODE)
        assert lines
        assert not any(overlap(copy, line) for line in lines)
        for name in BUTTONS:
            expect(tab.get_by_role("button", name=name, exact=True)).to_be_in_viewport(ratio=1)
        tab.get_by_label("filter").fill("stats:5xx nothing:there methods:get state:nowhere ms:abc")
        told = tab.locator(".q-field__messages", has_text="takes a number")
        expect(told).to_be_in_viewport(ratio=1)
        assert told.evaluate("it => it.scrollHeight <= it.clientHeight")
        assert told.evaluate("it => getComputedStyle(it.parentElement).backgroundColor") == "rgb(140, 47, 47)"
        tab.get_by_label("filter").fill("")
        send(port, f"/{'long' * 100}")
        rows(tab).first.click()
        expect(tab.locator(".side")).to_have_count(2)
        for cell in tab.locator(".fields td").all():
            box = cell.bounding_box()
            assert box is not None
            assert box["width"] > 100
            assert box["x"] + box["width"] <= width


def test_a_row_of_hex_is_one_line(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector)
    binary = [("Host", "h"), ("Content-Type", "application/octet-stream")]
    assert exchange(port, "POST", "/", binary, body=bytes(range(256))) is not None
    with traffic_page(admin) as url:
        tab.set_viewport_size({"width": 1000, "height": 700})
        tab.goto(url)
        rows(tab).first.click()
        shown = tab.locator("pre.hex").first
        expect(shown).to_contain_text("0000f0")
        lines = shown.evaluate("it => it.clientHeight / parseFloat(getComputedStyle(it).lineHeight)")
        assert lines < 18


BUTTONS = ("export as HAR, masked", "export events as NDJSON, masked", "dark or light", "help", "older", "newer")
BOXES_OF_CODE = """() => {
  const text = document.createRange();
  text.selectNodeContents(document.querySelector(".empty code"));
  const button = document.querySelector(".empty .nicegui-code-copy").getBoundingClientRect();
  return [button, ...text.getClientRects()].map(box => [box.left, box.top, box.right, box.bottom]);
}"""


def overlap(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_keys_step_through_the_list(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector)
    sent = [send(port, f"/orders/{number}") for number in range(3)]
    wait_for(admin, sent[-1], "sent")
    with traffic_page(admin) as url:
        tab.goto(url)
        expect(rows(tab)).to_have_count(3)
        for key, title in (("j", "/orders/2"), ("j", "/orders/1"), ("k", "/orders/2")):
            tab.keyboard.press(key)
            expect(tab.locator(".title")).to_contain_text(title)
        tab.keyboard.press("?")
        expect(tab.get_by_text("not negates a term")).to_be_visible()
        expect(tab.get_by_text("/: type a filter")).to_be_visible()
        tab.keyboard.press("Escape")
        tab.keyboard.press("/")
        expect(tab.get_by_label("filter")).to_be_focused()


def test_the_overview_has_charts_and_the_page_a_dark_side(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector)
    send(port, "/orders/1")
    with traffic_page(admin) as url:
        tab.emulate_media(color_scheme="light")
        tab.goto(url)
        tab.get_by_role("tab", name="Overview").click()
        expect(tab.locator(".chart canvas")).to_have_count(6)
        tab.get_by_label("dark or light").click()
        expect(tab.locator("body.body--dark")).to_have_count(1)


def test_a_proxy_that_is_away_is_told(tab: Page) -> None:
    with traffic_page("http://127.0.0.1:9") as url:
        tab.goto(url)
        expect(tab.get_by_text("the proxy does not answer at http://127.0.0.1:9")).to_be_visible()


def test_the_token_is_shown_to_the_proxy_and_not_in_the_page(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector, admin_token=SECRET)
    send(port, "/orders/1")
    with traffic_page(admin) as url:
        tab.goto(url)
        expect(tab.get_by_text("requires a token: set MOESIF_ADMIN_TOKEN")).to_be_visible()
    with traffic_page(admin, token="another") as url:
        tab.goto(url)
        expect(tab.get_by_text("does not accept the token in MOESIF_ADMIN_TOKEN")).to_be_visible()
    with traffic_page(admin, token=SECRET) as url:
        tab.goto(url)
        expect(rows(tab)).to_have_count(1)
        assert SECRET not in tab.content()


def test_what_is_no_admin_listener_is_told(tab: Page, upstream: ScriptedUpstream) -> None:
    with traffic_page(upstream.url) as url:
        tab.goto(url)
        expect(tab.get_by_text("is not an admin listener of mitmproxy-moesif")).to_be_visible()


def test_a_page_of_20000_exchanges_draws_a_page_of_them_and_stays_small(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    port, admin = start(mitmdump, upstream, collector, recent=20_000)
    with traffic_page(admin) as url:
        tab.goto(url)
        command = ["wrk", "-t1", "-c4", "-d5s", f"http://127.0.0.1:{port}/orders"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        last = send(port, "/last")
        expect(tab.get_by_text("/last", exact=False).first).to_be_visible()
        assert 0 < rows(tab).count() <= 200
        assert len(tab.content()) < 1_000_000
        wait_for(admin, last, "sent")
        assert get(f"{admin}/exchanges")["seen"] == get(f"{admin}/status")["captured"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_only_this_machine_and_this_page_may_ask(headers: dict[str, str], status: int) -> None:
    with traffic_page("http://127.0.0.1:9") as url:
        answer = requests.get(url, headers=headers, timeout=10)
        assert answer.status_code == status
        if status == 200:
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_a_filter_of_a_link_that_is_none_is_told(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tab: Page
) -> None:
    """An empty list would be taken for no traffic."""
    _, admin = start(mitmdump, upstream, collector)
    with traffic_page(admin) as url:
        tab.goto(f"{url}/?filter=stats:5xx")
        expect(tab.locator(".q-field__messages", has_text="there is no term `stats:`")).to_be_visible()
        tab.get_by_label("filter").fill("status:5xx")
        expect(tab.get_by_text("there is no term")).to_have_count(0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "0.0.0.0:8090"], "is not a loopback address"),
        (["--listen", "nonsense"], "--listen: must be HOST:PORT"),
        (["--proxy", "http://example.com"], "is not a loopback URL"),
        (["--admin", "127.0.0.1:8095"], "such as http://127.0.0.1:8095; '127.0.0.1:8095' was given"),
        (["--admin", "http://admin:hunter2@127.0.0.1:8095"], "--admin: must be an http or https URL without"),
        (["--proxy", "http://admin:hunter2@127.0.0.1:8080"], "--proxy: must be an http or https URL without"),
    ],
)
def test_a_wrong_address_is_told_in_one_line(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "mitmproxy_moesif", "page", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "hunter2" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_told_with_the_argument_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--listen", address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr == f"moesif-proxy page: --listen: cannot listen on {address}: Address already in use\n"


def test_without_the_extra_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from mitmproxy_moesif.page import main

    monkeypatch.setattr(main, "is_there", lambda: False)
    assert main.main([]) == 1
    assert "pip install 'nicegui>=3,<4'" in capsys.readouterr().err

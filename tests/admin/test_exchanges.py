"""The newest exchanges, asked over HTTP: of a listener, and of a real proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.admin.exchanges import MAX_LIMIT, MOST_STREAMS
from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges
from tests.admin.sources import FakeSource
from tests.recent.kept import SECRET, build, raising
from tests.recent.test_store import numbered
from tests.support import wire
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import Answer, ScriptedCollector
from tests.support.ports import free_port
from tests.support.proxy import Mitmdump
from tests.support.traffic import send_many
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]
KONG = """
_format_version: "3.0"
services:
- name: orders
  url: http://orders:8080
  plugins: [{name: moesif, instance_name: of-orders, config: {application_id: x}}]
  routes: [{name: list, paths: [/orders]}]
- name: quiet
  url: http://quiet:8080
  routes: [{name: quiet, paths: [/quiet]}]
"""
DEADLINE = 20.0


def get(url: str, **headers: str) -> Any:
    """Answered as soon as the delivery process, which starts beside the proxy, is there."""
    until = time.monotonic() + DEADLINE
    while (answer := requests.get(url, headers=headers, timeout=10)).status_code == 503 and time.monotonic() < until:
        time.sleep(0.02)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for(url: str, transaction_id: str, state: str) -> dict[str, Any]:
    """Until an exchange is in this state."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        answer = requests.get(f"{url}/exchanges/{transaction_id}", timeout=10)
        if answer.status_code == 200 and answer.json()["state"] == state:
            found: dict[str, Any] = answer.json()
            return found
        time.sleep(0.02)
    raise AssertionError(f"{transaction_id} is not {state}: {answer.text}")


def followed(answer: requests.Response) -> Iterator[tuple[str, Any]]:
    """The events of a stream: name and content; comments too."""
    name = ""
    for line in answer.iter_lines(chunk_size=None):
        if line.startswith(b"event: "):
            name = line.removeprefix(b"event: ").decode()
        elif line.startswith(b": "):
            yield "comment", line
        elif line.startswith(b"data: "):
            yield name, json.loads(line.removeprefix(b"data: "))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/exchanges?filter=stats:5xx", "there is no term `stats:`"),
        (f"/exchanges?filter=%1B{'a' * 1000}", "a filter may have at most 1000 characters"),
        ("/exchanges?limit=0", f"limit: a whole number from 1 to {MAX_LIMIT}"),
        ("/exchanges?before=-1", "before: a whole number"),
        ("/exchanges?page=2", "page: there is no such parameter"),
        ("/stats?filter=user:", "a value is missing"),
        ("/exchanges/stream?filter=%22open", "a quote is not closed"),
    ],
)
def test_a_wrong_parameter_is_told_in_one_line(server: AdminServer, path: str, said: str) -> None:
    answer = requests.get(server.url + path, timeout=10)
    assert answer.status_code == 400
    assert said in answer.json()["message"]


def test_where_nothing_is_kept_that_is_said(server: AdminServer, source: FakeSource) -> None:
    source.exchanges = None
    for path in ("/exchanges", "/exchanges/x", "/stats"):
        answer = requests.get(server.url + path, timeout=10)
        assert answer.status_code == 503
        assert "moesif_recent" in answer.json()["message"]


def test_an_exchange_that_is_not_kept_is_not_found(server: AdminServer) -> None:
    assert requests.get(f"{server.url}/exchanges/unknown", timeout=10).status_code == 404


def test_a_stream_tells_what_comes_and_what_changes(server: AdminServer, source: FakeSource) -> None:
    recent = source.exchanges = RecentExchanges(Keep(2000), raising)
    build(recent, numbered(0))
    with requests.get(f"{server.url}/exchanges/stream?filter=path:/orders", stream=True, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        events = followed(answer)
        assert next(events)[0] == "comment"  # it follows from here on
        build(recent, numbered(1))
        assert [(name, row["id"], row["state"]) for name, row in [next(events)]] == [("exchange", "id-1", "built")]
        recent.moved(["id-0"], "sent", "status 201")
        assert [(row["id"], row["state"]) for _, row in [next(events)]] == [("id-0", "sent")]


def test_what_a_stream_leaves_out_it_tells(server: AdminServer, source: FakeSource) -> None:
    recent = source.exchanges = RecentExchanges(Keep(2000), raising)
    for number in range(MAX_LIMIT + 1):
        build(recent, numbered(number))
    with requests.get(f"{server.url}/exchanges/stream?changed_after=0", stream=True, timeout=10) as answer:
        names = [name for name, _ in islice(followed(answer), MAX_LIMIT + 2)]
    assert names == ["comment", *["exchange"] * MAX_LIMIT, "left_out"]


def test_only_so_many_may_follow_at_a_time(server: AdminServer) -> None:
    followers = [requests.get(f"{server.url}/exchanges/stream", stream=True, timeout=10) for _ in range(MOST_STREAMS)]
    assert requests.get(f"{server.url}/exchanges/stream", timeout=10).status_code == 503
    for follower in followers:
        follower.close()


def start(mitmdump: Start, upstream: ScriptedUpstream, collector: ScriptedCollector, **more: Any) -> tuple[int, str]:
    port = free_port()
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen=f"127.0.0.1:{port}", **more))
    proxy.wait_for_output("status, metrics and Admin API at")
    return proxy.port, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("background", ["process", "threads"])
def test_the_life_of_an_exchange_is_told(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, background: str
) -> None:
    collector.enqueue(Answer(503), Answer(201))
    port, url = start(mitmdump, upstream, collector, background=background)
    (transaction_id,) = send_many(port, 1, target="/orders/7")
    detail = wait_for(url, transaction_id, "sent")
    assert [step["step"] for step in detail["life"]] == ["captured", "built", "stored", "retrying", "sent"]
    assert "status 503" in detail["life"][3]["detail"]
    assert "status 201" in detail["life"][4]["detail"]
    (row,) = get(f"{url}/exchanges?filter=path:/orders state:sent")["exchanges"]
    assert (row["id"], row["status"]) == (transaction_id, 200)
    assert get(f"{url}/stats")["count"] == 1
    assert get(f"{url}/exchanges/{transaction_id}")["event"] == collector.wait_for(1)[0]


def test_the_size_of_a_body_that_is_left_out_is_told(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/large", wire.response(200, [], b"x" * 5000))
    port, url = start(mitmdump, upstream, collector, response_max_body_size_limit=1000, request_max_body_size_limit=10)
    answer = exchange(port, "POST", "/large", [("Host", "h")], body=b"y" * 70)
    assert answer is not None
    detail = wait_for(url, answer.get("x-moesif-transaction-id") or "", "sent")
    assert (detail["request_bytes"], detail["response_bytes"]) == (70, 5000)
    assert len(get(f"{url}/exchanges?filter=size:>4999")["exchanges"]) == 1


def test_a_refused_event_is_told_as_such(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.script = lambda _: Answer(400)
    port, url = start(mitmdump, upstream, collector)
    (transaction_id,) = send_many(port, 1)
    assert wait_for(url, transaction_id, "refused")["cause"] == "status 400"


def test_what_is_not_captured_is_told_with_its_cause(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    options: dict[str, Any] = {"skip": "~u /health", "sample_rate": 0, "request_query_masks": ["pin"]}
    port, url = start(mitmdump, upstream, collector, **options)
    (sampled_out,) = send_many(port, 1, target=f"/x;pin={SECRET}")
    (skipped,) = send_many(port, 1, target=f"/health%3Bpin={SECRET}?pin={SECRET}")
    assert wait_for(url, sampled_out, "not_captured")["cause"] == "sampled_out"
    assert wait_for(url, skipped, "not_captured")["cause"] == "skip"
    assert SECRET not in json.dumps([get(f"{url}/{what}") for what in ("exchanges", "stats")])


def test_a_request_to_which_no_instance_applies_is_told_and_so_is_the_name_of_the_one_that_does(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "kong.yml"
    config.write_text(KONG)
    port, url = start(mitmdump, upstream, collector, kong_config=str(config))
    send_many(port, 1, target=f"/quiet?pin={SECRET}")
    captured = wait_for(url, send_many(port, 1, target="/orders")[0], "sent")
    assert (captured["instance"], captured["service"], captured["route"]) == ("of-orders", "orders", "list")
    (row,) = get(f"{url}/exchanges?filter=cause:no_instance")["exchanges"]
    assert (row["state"], row["path"], row["method"]) == ("not_captured", "/quiet", "GET")
    assert get(f"{url}/status")["excluded"] == 1


def test_what_finds_no_room_is_told_as_dropped(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.script = lambda _: Answer(503)
    port, url = start(mitmdump, upstream, collector, event_queue_size=1, spool_dir="off")
    first, *_ = send_many(port, 1)
    wait_for(url, first, "retrying")
    (second,) = send_many(port, 1)
    assert wait_for(url, second, "dropped")["cause"] == "queue_full"


@pytest.mark.parametrize("raw", [False, True])
def test_what_masks_remove_is_told_only_with_raw(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, raw: bool
) -> None:
    port, url = start(mitmdump, upstream, collector, request_body_masks="pin", recent_raw=raw)
    body = json.dumps({"pin": SECRET, "a": 1}).encode()
    answer = exchange(port, "POST", "/x", [("Content-Type", "application/json"), ("Cookie", SECRET)], body=body)
    assert answer is not None
    detail = wait_for(url, answer.get("x-moesif-transaction-id") or "", "sent")
    assert {"where": "request.body.pin", "by": "request_body_masks"} in detail["removed"]
    assert {"where": "request.headers.cookie", "by": "credential_headers"} in detail["removed"]
    assert SECRET not in json.dumps(detail["event"])
    assert (SECRET in json.dumps(detail)) is raw
    if raw:
        assert detail["captured"]["request"]["body"] == {"pin": SECRET, "a": 1}


def test_without_an_admin_listener_nothing_is_kept(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    port, url = start(mitmdump, upstream, collector, recent=0)
    send_many(port, 1)
    collector.wait_for(1)
    assert requests.get(f"{url}/exchanges", timeout=10).status_code == 503


def test_a_token_is_asked_for_as_everywhere(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    _, url = start(mitmdump, upstream, collector, admin_token="t0ken-5ecre7")
    for path in ("/exchanges", "/exchanges/x", "/exchanges/stream", "/stats", "/openapi.json"):
        assert requests.get(url + path, timeout=10).status_code == 401
    assert requests.get(f"{url}/exchanges", headers={"Host": "evil.example"}, timeout=10).status_code == 403
    assert get(f"{url}/exchanges", Authorization="Bearer t0ken-5ecre7")["exchanges"] == []

"""The real mitmweb with the addon, over its HTTP API: comments, marks, the content view, and commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mitmproxy_moesif.web.server import free_port
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.mitmweb import Mitmweb
from tests.support.upstream import ScriptedUpstream

RULES = json.dumps(
    [
        {
            "_id": "no-entry",
            "type": "regex",
            "name": "no entry",
            "block": True,
            "regex_config": [{"conditions": [{"path": "request.route", "value": "^/blocked$"}]}],
            "response": {"status": 451, "headers": {}, "body": {"no": "entry"}},
        }
    ]
)
SECRET = "5ecre7"


@pytest.fixture(scope="module")
def collector_of_all() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def mitmweb(collector_of_all: ScriptedCollector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitmweb]:
    rules = tmp_path_factory.mktemp("rules") / "rules.json"
    rules.write_text(RULES)
    options = addon_options(
        collector_of_all,
        request_body_masks="password",
        user_id_header="x-user",
        rules_file=str(rules),
        skip="~u /skipped",
    )
    with ScriptedUpstream() as upstream, Mitmweb(upstream.url, options, free_port()) as mitmweb:
        body = json.dumps({"password": SECRET, "n": 1}).encode()
        headers = [("X-User", "ada"), ("Content-Type", "application/json"), ("Authorization", f"Bearer {SECRET}")]
        assert exchange(mitmweb.port, "POST", "/orders", headers, body)
        for path in ("/blocked", "/skipped"):
            assert exchange(mitmweb.port, target=path)
        yield mitmweb


def sent(collector: ScriptedCollector, path: str) -> dict[str, object]:
    (event,) = [event for event in collector.wait_for(2) if event["request"]["uri"].endswith(path)]
    return event


def test_a_comment_says_who_it_was_and_what_became_of_the_event(mitmweb: Mitmweb) -> None:
    flow = mitmweb.web.flow("/orders", lambda flow: "sent" in flow["comment"])
    assert flow["comment"] == "user ada · sent"
    assert flow["marked"] == ""


def test_what_was_blocked_or_left_out_is_marked(mitmweb: Mitmweb) -> None:
    assert mitmweb.web.flow("/blocked", lambda flow: "sent" in flow["comment"])["marked"] == "⛔"
    skipped = mitmweb.web.flow("/skipped", lambda flow: flow["comment"])
    assert skipped["comment"] == "not captured (skip)"
    assert skipped["marked"] == "⚠"


@pytest.mark.parametrize("path", ["/orders", "/blocked"])
def test_the_content_view_is_the_event_as_it_was_sent(
    mitmweb: Mitmweb, collector_of_all: ScriptedCollector, path: str
) -> None:
    shown = mitmweb.web.view(mitmweb.web.flow(path), "moesif%20event")
    assert (shown["view_name"], shown["syntax_highlight"]) == ("Moesif event", "javascript")
    event = json.loads(shown["text"])
    marks = [name for name, value in event["request"]["headers"].items() if value.startswith("‹removed by")]
    for name in marks:
        del event["request"]["headers"][name]
    removed = event["request"]["body"].pop("password") if path == "/orders" else None
    assert event == sent(collector_of_all, path)
    if path == "/orders":
        assert marks == ["authorization"]
        assert removed == "‹removed by request_body_masks›"
    assert SECRET not in shown["text"]


def test_the_view_is_chosen_by_hand_only(mitmweb: Mitmweb) -> None:
    assert mitmweb.web.view(mitmweb.web.flow("/orders"), "Auto")["view_name"] != "Moesif event"


def test_commands_tell_what_is_sent_and_why(mitmweb: Mitmweb, collector_of_all: ScriptedCollector) -> None:
    event = json.loads(mitmweb.web.call("moesif.preview", "~u /orders"))
    assert event["transaction_id"] == sent(collector_of_all, "/orders")["transaction_id"]
    mitmweb.web.flow("/orders", lambda flow: "sent" in flow["comment"])
    mitmweb.web.call("view.focus.go", "0")
    told = mitmweb.web.call("moesif.why", "@focus")
    assert "The user is ada" in told
    assert "request_body_masks removed request.body.password." in told
    assert "Its event was sent" in told
    assert re.match(r"moesif: captured [2-9], delivered [1-9], ", mitmweb.web.call("moesif.status"))
    assert "no Kong configuration" in mitmweb.web.call("moesif.kong", "GET", "h", "/")


def test_events_are_exported_as_they_are_sent(
    mitmweb: Mitmweb, collector_of_all: ScriptedCollector, tmp_path: Path
) -> None:
    path = tmp_path / "events.ndjson"
    assert mitmweb.web.call("moesif.export", "~u /orders", str(path)).startswith("1 of 1 flows")
    assert json.loads(path.read_text()) == sent(collector_of_all, "/orders")


def test_a_flow_is_sent_once_more_with_the_same_id(mitmweb: Mitmweb, collector_of_all: ScriptedCollector) -> None:
    collector_of_all.wait_for(2)
    before, known = len(collector_of_all.ids()), collector_of_all.unique_ids()
    assert mitmweb.web.call("moesif.send", "~u /orders") == "1 of 1 flows are on their way"
    collector_of_all.wait_for(lambda collector: len(collector.ids()) == before + 1)
    assert collector_of_all.unique_ids() == known


def test_flush_ends_the_pause_of_a_receiver_that_was_away(
    mitmweb: Mitmweb, collector_of_all: ScriptedCollector
) -> None:
    for path in ("/orders", "/blocked"):
        mitmweb.web.flow(path, lambda flow: "sent" in flow["comment"])
    collector_of_all.refuse()
    assert exchange(mitmweb.port, target="/late")
    mitmweb.web.flow("/late", lambda flow: "retrying" in flow["comment"])
    collector_of_all.listen()
    assert "waiting 1" in mitmweb.web.call("moesif.flush")
    collector_of_all.wait_for(lambda collector: len(collector.unique_ids()) == 3)

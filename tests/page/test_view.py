"""What is told of an exchange in words, and in charts."""

from __future__ import annotations

from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.page import plots, view
from mitmproxy_moesif.recent.api import Detail, State
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.stats import add_up
from mitmproxy_moesif.recent.store import RecentExchanges
from tests.recent.kept import build, kept, raising, told
from tests.support.events import an_exchange


def a_detail(**fields: Any) -> Detail:
    return cast(Detail, kept(an_exchange([("X-User", "ada")], []), user_id_header="x-user") | fields)


def test_who_it_was_and_how_that_is_known() -> None:
    said = view.why(a_detail())
    assert "The user is ada, as user_id_header in the request says." in said
    assert "Nothing identified a company." in said
    assert "The proxy's options apply." in said


def test_which_instance_route_and_rule_applied() -> None:
    said = view.why(a_detail(instance="orders", route="list", service="shop", blocked_by="r1", weight=10))
    assert "The instance orders of Kong's configuration applies." in said
    assert "Kong's route is list of the service shop." in said
    assert "The rule r1 blocked it." in said
    assert any("stands for 10 exchanges" in sentence for sentence in said)


def test_what_masks_removed() -> None:
    exchange = an_exchange([("Cookie", "a"), ("Authorization", "b")], [])
    assert "credential_headers removed request.headers.cookie, request.headers.authorization." in view.why(
        kept(exchange)
    )


@pytest.mark.parametrize(
    ("state", "detail", "said"),
    [
        ("sent", "status 201, request 2 with 5 events", "Its event was sent: status 201, request 2 with 5 events."),
        ("retrying", "status 503", "Its event could not be sent yet and will be retried: status 503."),
        ("refused", "status 400", "The receiver refused its event: status 400."),
        ("dropped", "spool_full", "Its event was dropped: the spool was full (moesif_spool_max_bytes)."),
        ("stored", "on disk", "Its event waits to be sent."),
    ],
)
def test_what_became_of_the_event(state: State, detail: str, said: str) -> None:
    recent = RecentExchanges(Keep(5), raising)
    exchange = an_exchange()
    build(recent, exchange)
    recent.moved([exchange.transaction_id], state, detail)
    assert view.why(told(recent, exchange.transaction_id))[-1] == said


@pytest.mark.parametrize("state", get_args(State.__value__))
def test_there_is_a_sentence_for_each_state(state: State) -> None:
    assert view.STATES[state]


@given(
    st.none() | st.floats(0, 1e6, allow_subnormal=False),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 10**6),
)
def test_shares_of_the_time_never_exceed_the_whole(ms: float | None, kong: int | None, upstream: int | None) -> None:
    shares = view.timing(a_detail(ms=ms, kong_ms=kong, upstream_ms=upstream))
    assert sum(share.percent for share in shares) <= 100.5
    assert sum(share.ms for share in shares) <= (ms or 0) + 0.5
    assert all(share.ms >= 0 for share in shares)


@pytest.mark.parametrize(
    ("kong", "upstream", "names"),
    [
        (None, None, ["in all"]),
        (2, 5, ["upstream", "Kong", "network and the rest"]),
        (None, 5, ["upstream", "network and the rest"]),
    ],
)
def test_time_is_shared_out_only_where_kong_tells_of_it(
    kong: int | None, upstream: int | None, names: list[str]
) -> None:
    assert [share.name for share in view.timing(a_detail(ms=10.0, kong_ms=kong, upstream_ms=upstream))] == names


def test_removed_places_are_told_by_side_and_part() -> None:
    removed = [
        {"where": "request.body.card.number", "by": "a"},
        {"where": "request.body", "by": "b"},
        {"where": "response.headers.cookie", "by": "c"},
    ]
    detail = a_detail(removed=removed)
    assert view.removed_from(detail, "request", "body") == {"card.number": "a", "": "b"}
    assert view.removed_from(detail, "response", "headers") == {"cookie": "c"}


def test_the_charts_show_what_the_stats_tell() -> None:
    stats = add_up([a_detail(status=502), a_detail()])
    traffic, _, latency, statuses, users, companies = plots.all_of(stats)
    assert [series["data"] for series in traffic["series"]] == [[2], [1]]
    assert [series["name"] for series in latency["series"]] == ["p50", "p95", "p99"]
    assert statuses["xAxis"]["data"] == ["2xx", "5xx"]
    assert (users["series"][0]["data"], companies["series"][0]["data"]) == ([2], [])

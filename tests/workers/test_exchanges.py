"""The newest exchanges of several workers as those of one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges
from mitmproxy_moesif.workers import exchanges
from mitmproxy_moesif.workers.messages import Answer, Request
from tests.admin.test_exchanges import followed, get, wait_for
from tests.recent.kept import build, raising
from tests.recent.test_store import numbered
from tests.support.traffic import send_many


def all_of(*workers: RecentExchanges) -> exchanges.AskAll:
    """Asks workers that keep these."""

    async def ask(request: Request) -> list[Answer]:
        path, _, query = request.path.partition("?")
        given: dict[str, Any] = dict(pair.split("=") for pair in query.split("&") if pair)
        given = {name: int(value) if value.isdecimal() else value for name, value in given.items()}
        if path != "/exchanges":
            given = {"id": path.rpartition("/")[2]}
        answers = [worker.answer(given) for worker in workers]
        return [Answer(404 if body == b"null" else 200, (), body) for body in answers]

    return ask


def answered(path: str, *workers: RecentExchanges) -> tuple[int, Any]:
    answer = asyncio.run(exchanges.answer(Request("GET", path), all_of(*workers)))
    return answer.status, orjson.loads(answer.body)


def several(count: int, *order: int) -> list[RecentExchanges]:
    """Workers that got exchanges in this order."""
    workers = [RecentExchanges(Keep(100), raising) for _ in range(count)]
    for number, worker in enumerate(order):
        build(workers[worker % count], numbered(number))
    return workers


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 5))
def test_page_by_page_they_are_all_told_newest_first(order: list[int], limit: int) -> None:
    workers, found, before = several(3, *order), list[str](), ""
    while True:
        status, listing = answered(f"/exchanges?limit={limit}{before}", *workers)
        assert status == 200
        assert len(listing["exchanges"]) <= limit
        found += [row["id"] for row in listing["exchanges"]]
        if listing["next"] is None:
            break
        before = f"&before={listing['next']}"
    assert found == [f"id-{number}" for number in reversed(range(len(order)))]
    assert (listing["kept"], listing["seen"]) == (len(order), len(order))


def test_what_changed_since_is_told_of_each() -> None:
    workers = several(2, 0, 1)
    _, listing = answered("/exchanges", *workers)
    workers[0].moved(["id-0"], "sent", "status 201")
    _, changed = answered(f"/exchanges?changed_after={listing['changed']}", *workers)
    assert [row["id"] for row in changed["exchanges"]] == ["id-0"]


def test_one_is_told_by_the_worker_that_has_it() -> None:
    workers = several(2, 0, 1)
    assert answered("/exchanges/id-1", *workers)[1]["id"] == "id-1"
    assert answered("/exchanges/unknown", *workers)[0] == 404


def test_all_are_added_up() -> None:
    assert answered("/stats", *several(2, 0, 1, 1))[1]["count"] == 3


@pytest.mark.parametrize("path", ["/exchanges", "/exchanges/x", "/stats"])
def test_where_no_worker_answers_that_is_said(path: str) -> None:
    assert answered(path)[0] == 503


@pytest.mark.parametrize("path", ["/exchanges?limit=0", "/exchanges?filter=stats:5xx", "/stats?limit=1"])
def test_a_wrong_parameter_is_refused_here(path: str) -> None:
    assert answered(path, *several(1))[0] == 400


def test_a_real_proxy_tells_of_all_its_workers(start: Any) -> None:
    proxy, url = start()
    sent = {send_many(proxy.port, 1, target="/orders")[0] for _ in range(12)}
    for transaction_id in sent:
        wait_for(url, transaction_id, "sent")
    assert {row["id"] for row in get(f"{url}/exchanges?filter=path:/orders")["exchanges"]} == sent
    assert get(f"{url}/stats")["count"] == 12
    with requests.get(f"{url}/exchanges/stream?changed_after=0", stream=True, timeout=10) as answer:
        events = followed(answer)
        assert next(events)[0] == "comment"
        assert {next(events)[1]["id"] for _ in sent} == sent
    assert requests.get(f"{url}/exchanges/stream?filter=stats:5xx", timeout=10).status_code == 400
    assert json.loads(requests.get(f"{url}/openapi.json", timeout=10).text)["openapi"] == "3.1.0"

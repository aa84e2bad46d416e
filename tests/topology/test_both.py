"""client -> addon -> Kong -> addon -> service: one exchange, seen twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support.addon import addon_options
from tests.support.client import RawResponse
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.traffic import ID_HEADER
from tests.support.upstream import RawRequest, ScriptedUpstream
from tests.topology.kong import VERSION
from tests.topology.nginx import KongLikeNginx
from tests.topology.stations import ADA_KEY, CLIENT, KONG, ClientFrom


@dataclass
class Both:
    """Each addon has an account of its own."""

    front: ScriptedCollector
    behind: ScriptedCollector
    service: ScriptedUpstream
    port: int

    def ask(self, headers: list[tuple[str, str]], target: str = "/orders/7") -> tuple[RawResponse, RawRequest]:
        with ClientFrom(self.port, CLIENT) as client:
            answer = client.exchange("GET", target, headers)
        assert answer is not None
        return answer, self.service.requests()[-1]

    def events(self, mark: str) -> tuple[Event, Event]:
        """Those of the exchange whose request had `X-Mark: mark`, of the addon in front and of the one behind."""
        return marked(self.front, mark), marked(self.behind, mark)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with ExitStack() as started:
        front, behind = (started.enter_context(ScriptedCollector()) for _ in range(2))
        service = started.enter_context(ScriptedUpstream())
        second = started.enter_context(Mitmdump(service.url, addon_options(behind)))
        kong = started.enter_context(KongLikeNginx(second.port, KONG))
        first = started.enter_context(Mitmdump(kong.url, addon_options(front)))
        yield Both(front, behind, service, first.port)


def marked(collector: ScriptedCollector, mark: str) -> Event:
    def found() -> list[Event]:
        return [event for event in collector.events() if event["request"]["headers"].get("x-mark") == mark]

    collector.wait_for(lambda _: bool(found()))
    (event,) = found()
    return event


@pytest.mark.parametrize("sent", [None, "order-7", "7D3B6E0A-4C1F-4A7E-9F59-0123456789AB"])
def test_one_id_goes_all_the_way_and_each_event_has_its_own(sent: str | None, both: Both) -> None:
    mark = f"id {sent}"
    answer, asked = both.ask([("apikey", ADA_KEY), ("X-Mark", mark), *([(ID_HEADER, sent)] if sent else [])])
    (transaction,) = answer.get_all(ID_HEADER)
    assert asked.get_all(ID_HEADER) == [transaction]
    assert transaction == (sent or transaction)
    front, behind = both.events(mark)
    assert len({uuid.UUID(event["transaction_id"]) for event in (front, behind)}) == 2
    assert behind["metadata"]["client_transaction_id"] == transaction
    assert front["metadata"].get("client_transaction_id") == sent


def test_each_sees_what_its_place_shows(both: Both) -> None:
    _, asked = both.ask([("apikey", ADA_KEY), ("X-Mark", "places"), ("X-Consumer-Username", "forged")])
    front, behind = both.events("places")
    request_id = asked.get("x-kong-request-id")
    assert front["metadata"]["kong"]["request_id"] == behind["metadata"]["kong"]["request_id"] == request_id
    assert front["metadata"]["kong"]["version"] == VERSION
    assert "upstream_latency_ms" in front["metadata"]["kong"]
    assert "user_id" not in front
    assert behind["user_id"] == "customer-42"
    assert front["request"]["uri"] == "http://api.example.com/orders/7"
    assert "apikey" not in front["request"]["headers"]
    assert "apikey" not in behind["request"]["headers"]
    assert front["request"]["ip_address"] == CLIENT


def test_what_kong_answers_itself_only_the_first_sees(both: Both) -> None:
    with ClientFrom(both.port, CLIENT) as client:
        answer = client.exchange("GET", "/orders", [("X-Mark", "refused")])
    assert answer is not None
    assert marked(both.front, "refused")["response"]["status"] == 401
    both.ask([("apikey", ADA_KEY), ("X-Mark", "after")])
    marked(both.behind, "after")
    assert all(event["request"]["headers"].get("x-mark") != "refused" for event in both.behind.events())

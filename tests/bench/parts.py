"""The addon's parts in isolation, in microseconds of CPU time: where an exchange's time goes.

Inside a proxy the same code costs more (cold caches, threads that take turns), so these add up to less than what is
measured from outside; they tell what is worth improving.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from mitmproxy import http
from mitmproxy.test import tflow, tutils

from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import DEFAULT_RECENT, parse_settings
from mitmproxy_moesif.delivery.batch import Batch
from mitmproxy_moesif.delivery.ledger import Ledger, Settlement
from mitmproxy_moesif.delivery.lossy import MOST_RECORDS
from mitmproxy_moesif.delivery.receivers.akto import AktoReceiver
from mitmproxy_moesif.delivery.receivers.moesif import MoesifReceiver
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.event.akto_record import akto_record, encode_record
from mitmproxy_moesif.event.attributes import read_attributes
from mitmproxy_moesif.event.build import build_event
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import EventBuilder
from mitmproxy_moesif.governance.model import parse_rules
from mitmproxy_moesif.governance.snapshot import Snapshot
from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.router import Router
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges
from tests.bench import rules
from tests.bench.load import Request, document
from tests.bench.variants import MASKS

TURNS = 7
TURN_SECONDS = 0.05
BATCH = 50

RESPONSE_HEADERS = {
    "Server": "nginx",
    "Date": "Sat, 22 Nov 2025 21:00:00 GMT",
    "Content-Type": "application/json",
    "Last-Modified": "Sat, 22 Nov 2025 20:00:00 GMT",
    "Connection": "keep-alive",
    "ETag": '"69221c50-3e8"',
    "Accept-Ranges": "bytes",
}


@dataclass(frozen=True)
class Part:
    """Microseconds of CPU time for one exchange: the median of some turns, and the quickest."""

    name: str
    median: float
    best: float


def timed(name: str, work: Callable[[], object], *, exchanges: int = 1) -> Part:
    """`work`, which is for so many exchanges, again and again for some turns."""
    work()
    repeat = _repetitions(work)
    spent = []
    gc.collect()
    for _ in range(TURNS):
        began = time.process_time_ns()
        for _ in range(repeat):
            work()
        spent.append((time.process_time_ns() - began) / repeat / exchanges / 1000)
    return Part(name, median(spent), min(spent))


def _repetitions(work: Callable[[], object]) -> int:
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < TURN_SECONDS:
        work()
        count += 1
    return count


def all_parts(collector: str, folder: Path) -> Iterator[Part]:
    """Everything; `collector` is an endpoint that takes events, `folder` a place for a spool."""
    for size in (1_000, 100_000):
        label = f"{size // 1000} KB"
        plain, masked = _instance({}), _instance(MASKS)
        flow, body, maker = _flow(size), document(size), EventBuilder(lambda *_: 1, _refuse)
        yield timed(f"hooks and body copy ({label})", partial(_captured, flow, plain, body))
        yield timed(f"building and encoding ({label})", partial(maker, _captured(flow, plain, body), plain))
        yield timed(f"building and encoding, masks ({label})", partial(maker, _captured(flow, masked, body), masked))
        event = maker(_captured(flow, plain, body), plain)
        assert isinstance(event, bytes)
        yield timed(
            f"keeping an exchange for who looks ({label})", _keeping(_captured(flow, plain, body), plain, event)
        )
        yield from _akto_parts(label, _captured(flow, plain, body), plain, collector)
        yield from _delivery_parts(label, event, collector, folder / label)
    yield from rule_parts()
    yield from router_parts()


def _keeping(exchange: Exchange, instance: Instance, event: bytes) -> Callable[[], object]:
    """In the delivery process, with as many kept as by default."""
    recent, policy = RecentExchanges(Keep(DEFAULT_RECENT), _refuse), instance.policy
    facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, policy)
    numbers = iter(range(10**9))

    def keep() -> None:
        exchange.transaction_id = str(next(numbers))
        recent.built(instance, exchange, facts, event)

    return keep


def _refuse(_kind: str, error: Exception) -> None:
    raise error


def _instance(options: dict[str, str]) -> Instance:
    parameters = {name.removeprefix("moesif_"): value for name, value in options.items()}
    return Instance.compile(parse_settings({"application_id": "bench", **parameters}))


def _flow(size: int) -> http.HTTPFlow:
    fields = [(name.encode(), value.encode()) for name, value in Request(size).headers.items()]
    answer = [(name.encode(), value.encode()) for name, value in RESPONSE_HEADERS.items()]
    flow = tflow.tflow(
        req=tutils.treq(headers=http.Headers(fields), content=b"", path=Request(size).target.encode()),
        resp=tutils.tresp(headers=http.Headers(answer), content=None),
    )
    flow.live = True
    return flow


def _captured(flow: http.HTTPFlow, instance: Instance, body: bytes) -> Exchange:
    """What the hooks do with an exchange, in the order of the engine."""
    request, response = flow.request.headers.fields, flow.response
    assert response is not None
    flow.response = None
    flow.request.stream = False
    entry = exchanges.open_exchange(flow, instance)
    exchanges.stream_request(entry, flow)
    flow.response = response
    response.stream = False
    fields = response.headers.fields
    exchanges.open_response(entry, flow, stream=True)
    if entry.response_tee is not None:
        entry.response_tee(body)
        entry.response_tee(b"")
    exchange = exchanges.snapshot(entry, exchanges.end_of(entry))
    flow.request.headers.fields, response.headers.fields = request, fields
    return exchange


def _akto_parts(label: str, exchange: Exchange, instance: Instance, collector: str) -> Iterator[Part]:
    """What a second receiver costs beside Moesif."""
    facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, instance.policy)
    event = build_event(exchange, facts, instance.policy)
    yield timed(f"making Akto's record ({label})", lambda: encode_record(akto_record(event, exchange, "1000000")))
    target = AktoTarget(collector, 1.0, logging.WARNING, "1000000")
    receiver, batch = AktoReceiver(target), [encode_record(akto_record(event, exchange, "1000000"))] * MOST_RECORDS
    yield timed(f"sending to Akto, by {MOST_RECORDS} ({label})", lambda: receiver.send(batch), exchanges=MOST_RECORDS)
    receiver.close()


def _delivery_parts(label: str, event: bytes, collector: str, folder: Path) -> Iterator[Part]:
    for where, path in (("on disk", folder), ("in memory", None)):
        ledger = Ledger()
        store = Store(ledger, path, 2**30)
        store.open()

        def put_and_settle(store: Store = store, ledger: Ledger = ledger) -> None:
            ids = tuple(f"{number:036d}" for number in range(BATCH))
            store.put([Chunk("bench", time.time(), ids, (event,) * BATCH)], Settlement(BATCH))
            batch = Batch(store.take_fresh("bench", BATCH, 2**40))
            batch.mark_delivered(0, BATCH)
            store.settle("bench", batch.parts)

        yield timed(f"storing {where}, by {BATCH} ({label})", put_and_settle, exchanges=BATCH)
        store.close()
    receiver = MoesifReceiver(parse_settings({"application_id": "bench", "api_endpoint": collector}))
    batch = [event] * BATCH
    yield timed(f"sending, by {BATCH} ({label})", lambda: receiver.send(batch), exchanges=BATCH)
    receiver.close()


class _View:
    """A request as the rules' conditions see it."""

    verbs = ("GET",)
    routes = ("/tenants/none/orders/7",)
    ip_address = "192.0.2.7"

    def header_values(self, name: str, /) -> tuple[str, ...]:
        return ("plan-none",) if name == "x-plan" else ()

    def body(self) -> object:
        return None


def rule_parts() -> Iterator[Part]:
    """What a request pays for 1,000 rules with two conditions each."""
    snapshot = Snapshot(remote_rules=parse_rules(json.dumps(rules.rules()).encode()))
    view = _View()
    yield timed("deciding by 1,000 rules", lambda: snapshot.decide(view, "user-4711", "acme"))


def router_parts() -> Iterator[Part]:
    """A lookup among few routes and among many. Each path is asked for once, so nothing remembered helps."""
    for count in (10, 1000):
        router = Router([Route.model_validate(route) for route in rules.routes(count)])
        numbers = iter(range(10**9))

        def look_up(router: Router = router, numbers: Iterator[int] = numbers, count: int = count) -> object:
            number = next(numbers)
            host = f"tenant-{number % 50}.example.com"
            return router.match("GET", f"/api/v1/resource-{number % count}/items/{number}", host, {})

        yield timed(f"a lookup among {count:,} routes", look_up)

"""Exchanges under way, by client connection and flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mitmproxy import http

from mitmproxy_moesif.capture.tee import Tee
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.event.identity import Caller


@dataclass(slots=True)
class PendingExchange:
    """An exchange under way. `live` tells it from a saved one that is only read; killing ends the flow's own flag.

    `unanswered`: its connection is closed without an answer. `left_out`: why there is to be no event of it. A `passive`
    one is only counted: nothing is done to its flow.
    """

    flow: http.HTTPFlow
    instance: Instance
    request_headers: Fields
    header: bytes | None = None
    request_tee: Tee | None = None
    response_tee: Tee | None = None
    live: bool = True
    refused: bool = False
    unanswered: bool = False
    left_out: str | None = None
    passive: bool = False
    awaits_body: bool = False
    caller: Caller | None = None  # whom rules were decided for, where they ask
    blocked_by: str | None = None
    rule_headers: Fields = ()
    kong: dict[str, object] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)


class InFlight:
    """The exchanges under way, by client connection and flow. Used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._by_client: dict[str, dict[str, PendingExchange]] = {}

    def add(self, entry: PendingExchange) -> None:
        self._by_client.setdefault(entry.flow.client_conn.id, {})[entry.flow.id] = entry

    def get(self, flow: http.HTTPFlow) -> PendingExchange | None:
        flows = self._by_client.get(flow.client_conn.id)
        return flows.get(flow.id) if flows else None

    def pop(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """Close an exchange: only the first caller gets it."""
        client = flow.client_conn.id
        flows = self._by_client.get(client)
        if flows is None:
            return None
        entry = flows.pop(flow.id, None)
        if not flows:
            del self._by_client[client]
        return entry

    def entries(self) -> list[PendingExchange]:
        return [entry for flows in self._by_client.values() for entry in flows.values()]

    def pop_client(self, client_id: str) -> Iterable[PendingExchange]:
        return self._by_client.pop(client_id, {}).values()

    def pop_all(self) -> Iterator[PendingExchange]:
        while self._by_client:
            yield from self._by_client.popitem()[1].values()

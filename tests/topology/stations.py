"""The two topologies: who listens where, a client with an address of its own, and one call that shows all sides."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support import REPOSITORY, wire
from tests.support.addon import addon_options
from tests.support.client import TIMEOUT, Client, RawResponse
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Mitmdump, Option
from tests.support.traffic import ID_HEADER
from tests.support.upstream import RawRequest, ScriptedUpstream
from tests.topology.kong import Consumer, KeyAuth, KongConfiguration, Route, declared
from tests.topology.nginx import KongLikeNginx

CLIENT = "127.0.0.5"
PROXY = "127.0.0.1"
"""Where mitmproxy's connections to its upstream come from."""

STACKS = declared(REPOSITORY / "compose" / "kong.yml")
ADA_KEY = "demo-key-of-ada"
GUEST = Consumer("guest")

KONG = KongConfiguration(
    (
        *STACKS.routes,
        Route("/keyed", key_auth=KeyAuth()),
        Route("/guests", key_auth=KeyAuth(anonymous=GUEST)),
        Route("/open"),
        Route("/kept", strip_path=False, preserve_host=True),
        Route("/limited", limited=True),
        Route("/by-host", host="shop.example.com"),
    ),
    (
        *STACKS.consumers,
        Consumer(username="bob", keys=("key-of-bob",)),
        Consumer(custom_id="customer-7", keys=("key-of-7",)),
        Consumer(keys=("key-of-nameless",)),  # Kong has none, but other plugins may take the names away
    ),
)


class Listening(Protocol):
    @property
    def port(self) -> int: ...


class ClientFrom(Client):
    """A client with another address of loopback than all the rest."""

    def __init__(self, port: int, address: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT, (address, 0))
        self.stream = self.sock.makefile("rb")


@dataclass(frozen=True)
class Seen:
    """One exchange: what the client got, what the service was asked (None: nothing), the addon's event."""

    answer: RawResponse
    asked: RawRequest | None
    event: Event

    @property
    def kong(self) -> dict[str, Any] | None:
        kong: dict[str, Any] | None = self.event.get("metadata", {}).get("kong")
        return kong

    @property
    def service(self) -> RawRequest:
        assert self.asked is not None, "the service was not asked"
        return self.asked


@dataclass
class Topology:
    """What is started. `entrance` is what clients connect to: the proxy or Kong."""

    collector: ScriptedCollector
    service: ScriptedUpstream
    kong: KongLikeNginx
    proxy: Listening
    entrance: Listening

    def send(
        self,
        method: str = "GET",
        target: str = "/",
        headers: wire.Pairs = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
        address: str = CLIENT,
    ) -> RawResponse:
        """The answer alone, for what the addon may not see."""
        with ClientFrom(self.entrance.port, address) as client:
            answer = client.exchange(method, target, headers, body, chunked=chunked)
        assert answer is not None, f"no answer; nginx says:\n{self.kong.output}"
        return answer

    def ask(self, *args: Any, **kwargs: Any) -> Seen:
        """`send`, and what the addon and the service saw of it."""
        answer = self.send(*args, **kwargs)
        transaction = answer.get(ID_HEADER)
        assert transaction is not None, f"the addon did not see it: {answer.head!r}"
        asked = [request for request in self.service.requests() if request.get(ID_HEADER) == transaction]
        return Seen(answer, asked[0] if asked else None, event_of(self.collector, transaction))


def event_of(collector: ScriptedCollector, transaction: str) -> Event:
    """Waits for the event whose own id, or its client's, is that one."""

    def found() -> list[Event]:
        return [
            event
            for event in collector.events()
            if transaction in (event["transaction_id"], event.get("metadata", {}).get("client_transaction_id"))
        ]

    collector.wait_for(lambda _: bool(found()))
    return found()[0]


@contextmanager
def in_front_of_kong(*, kong_trusts: Sequence[str] = (), **parameters: Option) -> Iterator[Topology]:
    """client -> addon -> Kong -> service; the addon's parameters, without `moesif_`."""
    with ExitStack() as started:
        collector, service = started.enter_context(ScriptedCollector()), started.enter_context(ScriptedUpstream())
        kong = started.enter_context(KongLikeNginx(service.port, KONG, trusted_ips=kong_trusts))
        proxy = started.enter_context(Mitmdump(kong.url, addon_options(collector, **parameters)))
        yield Topology(collector, service, kong, proxy, proxy)


@contextmanager
def behind_kong(*, kong_trusts: Sequence[str] = (), **parameters: Option) -> Iterator[Topology]:
    """client -> Kong -> addon -> service."""
    with ExitStack() as started:
        collector, service = started.enter_context(ScriptedCollector()), started.enter_context(ScriptedUpstream())
        proxy = started.enter_context(Mitmdump(service.url, addon_options(collector, **parameters)))
        kong = started.enter_context(KongLikeNginx(proxy.port, KONG, trusted_ips=kong_trusts))
        yield Topology(collector, service, kong, proxy, kong)

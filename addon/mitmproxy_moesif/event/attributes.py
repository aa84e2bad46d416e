"""What the headers of an exchange say, read once: for its event, for rules and for sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from mitmproxy_moesif.config.policy import EventPolicy
from mitmproxy_moesif.event import kong_headers
from mitmproxy_moesif.event.address import client_address, is_trusted
from mitmproxy_moesif.event.decoding import Failure, decode
from mitmproxy_moesif.event.exchange import Exchange, Fields
from mitmproxy_moesif.event.headers import flatten, text
from mitmproxy_moesif.event.identity import Caller, identify


@dataclass(slots=True)
class Attributes:
    """Headers as flat maps with lower-case names, who called, from where, and where Kong stands.

    Before there is an answer, `response_headers` is empty and the rest is known from the request alone.
    """

    request_headers: dict[str, str]
    response_headers: dict[str, str]
    position: kong_headers.Position
    trusted: bool
    caller: Caller
    address: str


def read_attributes(request: Fields, response: Fields, peer: str, policy: EventPolicy) -> Attributes:
    request_headers, response_headers = flatten(request), flatten(response)
    trusted = policy.trusts_all or is_trusted(peer, policy.trusted)
    where = kong_headers.position(policy.position, request_headers, response_headers, trusted=trusted)
    consumers = kong_headers.believed_consumers(where, request_headers, response_headers, trusted=trusted)
    kongs_view = where is kong_headers.Position.BEHIND and not policy.trusts_all
    return Attributes(
        request_headers,
        response_headers,
        where,
        trusted,
        identify(policy.identity, request_headers, response_headers, consumers),
        client_address(request_headers, peer, trusted=trusted, real_ip_first=kongs_view),
    )


class RequestAttributes:
    """A request as the conditions of rules see it. The body is read and parsed only if one asks for it."""

    __slots__ = ("_content", "_facts", "_limit", "_parsed", "route", "verb")

    def __init__(
        self, facts: Attributes, method: str, target: bytes, content: Callable[[], bytes | None], limit: int
    ) -> None:
        self._facts = facts
        self.verb = method
        self.route = text(target).partition("?")[0]
        self._content = content
        self._limit = limit
        self._parsed: list[object] = []

    @property
    def ip_address(self) -> str:
        return self._facts.address

    def header(self, name: str, /) -> str | None:
        return self._facts.request_headers.get(name)

    def body(self) -> object:
        """Parsed JSON; the text of an `application/graphql` body under `query`; None for anything else."""
        if not self._parsed:
            self._parsed.append(self._parse())
        return self._parsed[0]

    def _parse(self) -> object:
        raw = self._content()
        if not raw or len(raw) > self._limit:
            return None
        headers = self._facts.request_headers
        decoded = decode(raw, headers.get("content-encoding", ""), self._limit)
        if isinstance(decoded, Failure):
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() == "application/graphql":
            return {"query": text(decoded)}
        try:
            return orjson.loads(decoded)
        except orjson.JSONDecodeError:
            return None


def request_attributes(exchange: Exchange, facts: Attributes, limit: int) -> RequestAttributes:
    return RequestAttributes(facts, exchange.method, exchange.target, exchange.request_body.content, limit)

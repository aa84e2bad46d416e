"""Facts from the headers of an exchange, read once for its event, rules and sampling."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mitmproxy_moesif.config.policy import EventPolicy
from mitmproxy_moesif.event import kong_headers
from mitmproxy_moesif.event.address import client_address, is_trusted
from mitmproxy_moesif.event.decoding import decode
from mitmproxy_moesif.event.exchange import Exchange, Fields
from mitmproxy_moesif.event.headers import first_lines, flatten, lower_name, text, without
from mitmproxy_moesif.event.identity import Caller, identify, naming_headers
from mitmproxy_moesif.event.json_reading import looks_like_json, read_json

_CHARSET = re.compile(r"charset=\"?(?:utf-?8|us-ascii)\b")  # JSON allows no other


FORGEABLE = frozenset({"token_invalid", "token_unchecked"})
"""Errors of the JWT gate for tokens that anyone could have forged."""

_TOKEN = frozenset({"authorization"})


@dataclass(slots=True)
class Attributes:
    """Headers as flat maps with lower-case names, the caller, its address, and the position relative to Kong.

    Before there is a response, `response_headers` is empty and everything else comes from the request.
    """

    request_headers: dict[str, str]
    response_headers: dict[str, str]
    position: kong_headers.Position
    trusted: bool
    caller: Caller
    address: str


def attributes_of(exchange: Exchange, policy: EventPolicy) -> Attributes:
    """Attributes of an ended exchange. A token that the gate rejected as forgeable does not identify the caller."""
    request = without(exchange.request_headers, policy.request.underived)
    if exchange.metadata.get("error") in FORGEABLE:
        request = without(request, _TOKEN)
    response = without(exchange.response_headers, policy.response.underived)
    return read_attributes(request, response, exchange.peer, policy)


def read_attributes(request: Fields, response: Fields, peer: str, policy: EventPolicy) -> Attributes:
    request_headers, response_headers = flatten(request), flatten(response)
    trusted = policy.trusts_all or is_trusted(peer, policy.trusted)
    where = kong_headers.position(policy.position, request_headers, response_headers, trusted=trusted)
    consumers = kong_headers.believed_consumers(where, request_headers, response_headers, trusted=trusted)
    is_repeated = len(request_headers) < len(request)
    tokens = first_lines(request, naming_headers(policy.identity)) if is_repeated else request_headers
    kongs_view = where is kong_headers.Position.BEHIND and not policy.trusts_all
    return Attributes(
        request_headers,
        response_headers,
        where,
        trusted,
        identify(policy.identity, request_headers, response_headers, consumers, tokens),
        client_address(request_headers, peer, trusted=trusted, real_ip_first=kongs_view),
    )


class RequestAttributes:
    """A request as the conditions of rules see it, in all interpretations. The body is parsed only if one needs it.

    `routes` are the interpretations of its path. `unreadable`: the body was read, and does not match its content type
    or is ambiguous.
    """

    __slots__ = ("_authority", "_content", "_facts", "_fields", "_limit", "_parsed", "routes", "unreadable", "verbs")

    def __init__(
        self,
        facts: Attributes,
        fields: Fields,
        method: str,
        routes: Sequence[str],
        authority: str,
        content: Callable[[], bytes | None],
        limit: int,
    ) -> None:
        self._facts = facts
        self._fields = fields
        self.verbs = (method,) if method.isupper() else (method, method.upper())
        self.routes = routes
        self._authority = authority
        self._content = content
        self._limit = limit
        self._parsed: list[object] = []
        self.unreadable = False

    @property
    def ip_address(self) -> str:
        return self._facts.address

    def header_values(self, name: str, /) -> Sequence[str]:
        """The header's lines joined, and each of several lines. Without a Host field, `host` is the authority."""
        joined = self._facts.request_headers.get(name)
        if joined is None:
            return (self._authority,) if name == "host" and self._authority else ()
        if len(self._fields) == len(self._facts.request_headers):
            return (joined,)
        return (joined, *(text(value) for key, value in self._fields if lower_name(key) == name))

    def body(self) -> object:
        """The parsed JSON; for `application/graphql` an object with the text as `query`; else None."""
        if not self._parsed:
            self._parsed.append(self._parse())
        return self._parsed[0]

    def _parse(self) -> object:
        raw = self._content()
        if not raw:
            return None
        headers = self._facts.request_headers
        decoded = decode(raw, headers.get("content-encoding", ""), self._limit) if len(raw) <= self._limit else None
        if not isinstance(decoded, bytes) or headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self.unreadable = True
            return None
        kind = headers.get("content-type", "").lower()
        if kind.partition(";")[0].strip() == "application/graphql":
            return {"query": text(decoded)}
        try:
            document, same = read_json(decoded)
        except ValueError:
            document, same = None, False
        if "json" in kind or looks_like_json(decoded):
            self.unreadable = not same or "charset" in _CHARSET.sub("", kind)
        return document


def request_attributes(exchange: Exchange, facts: Attributes, limit: int) -> RequestAttributes:
    path = text(exchange.target).partition("?")[0]
    content = exchange.request_body.content
    return RequestAttributes(
        facts, exchange.request_headers, exchange.method, (path,), exchange.authority, content, limit
    )

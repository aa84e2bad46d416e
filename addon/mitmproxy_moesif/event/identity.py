"""The caller: user and company, from headers and tokens. Tokens are only decoded here, not verified."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mitmproxy_moesif.config.policy import IdentityPolicy, hyphened
from mitmproxy_moesif.event.headers import text

Headers = Mapping[str, str]

KEPT_LENGTH = 4096
"""Maximum characters of a token that is cached; the cache holds a thousand tokens."""

CONSUMER_HEADERS = ("x-consumer-custom-id", "x-consumer-username", "x-consumer-id")


@dataclass(frozen=True, slots=True)
class Caller:
    """`user_from` and `company_from` name the source: a parameter, Kong's consumer, or a user hook."""

    user_id: str | None = None
    company_id: str | None = None
    user_from: str | None = field(default=None, compare=False)
    company_from: str | None = field(default=None, compare=False)


def identify(
    policy: IdentityPolicy, request: Headers, response: Headers, consumers: tuple[Headers, ...], tokens: Headers
) -> Caller:
    """User and company of an exchange; `consumers` are the sides whose consumer headers are trusted, in order.

    `tokens`: the request's headers that may have a token, of a repeated one the first line only, as in the Kong plugin.
    Before there is a response, `response` is empty and only the request decides.
    """
    token = Token.read(policy, tokens)
    user, user_from = _user(policy, request, response, consumers, token)
    company, company_from = _company(policy, request, response, token)
    return Caller(user, company, user_from, company_from)


type Identified = tuple[str | None, str | None]
"""The id, and its source."""


def _user(
    policy: IdentityPolicy, request: Headers, response: Headers, consumers: tuple[Headers, ...], token: Token
) -> Identified:
    if user := named(request, policy.user_header):
        return user, "user_id_header in the request"
    if user := named(response, policy.user_header):
        return user, "user_id_header in the response"
    for side in consumers:
        if user := consumer(side):
            return user, "Kong's consumer"
    if user := token.basic_user:
        return user, "Basic credentials"
    if user := token.claim(policy.user_claim):
        return user, "authorization_user_id_field in the token"
    return None, None


def _company(policy: IdentityPolicy, request: Headers, response: Headers, token: Token) -> Identified:
    if company := named(request, policy.company_header):
        return company, "company_id_header in the request"
    if company := named(response, policy.company_header):
        return company, "company_id_header in the response"
    if company := token.claim(policy.company_claim):
        return company, "authorization_company_id_field in the token"
    return None, None


def naming_headers(policy: IdentityPolicy) -> frozenset[str]:
    """The headers that may identify the caller."""
    named = (policy.user_header, policy.company_header, *policy.token_headers, *CONSUMER_HEADERS)
    return frozenset(spelling for name in named if name for spelling in (name, hyphened(name)))


def value_of(headers: Headers, name: str) -> str | None:
    """The value of a header; if it is not there and has `_` in its name, of the one with `-`, as in the Kong plugin."""
    found = headers.get(name)
    return headers.get(hyphened(name)) if found is None and "_" in name else found


def named(headers: Headers, name: str | None) -> str | None:
    return ((value_of(headers, name) or "").strip() or None) if name else None


def consumer(headers: Headers) -> str | None:
    """Kong's consumer; None for the anonymous one."""
    if headers.get("x-anonymous-consumer", "").strip().lower() == "true":
        return None
    return next(filter(None, (named(headers, name) for name in CONSUMER_HEADERS)), None)


@dataclass(frozen=True, slots=True)
class Token:
    """The content of the authorization header: the user name of Basic credentials, or the claims of a JWT."""

    basic_user: str | None = None
    claims: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, policy: IdentityPolicy, headers: Headers) -> Token:
        for name in policy.token_headers:
            if (value := value_of(headers, name)) is not None:
                return cls.parse(value) if len(value) > KEPT_LENGTH else _parsed(value)
        return cls()

    @classmethod
    def parse(cls, value: str) -> Token:
        value = value.strip()
        scheme, _, rest = value.partition(" ")
        match scheme.lower():
            case "basic":
                return cls(basic_user=_basic_user(rest.strip()))
            case "bearer":
                return cls(claims=_jwt_payload(rest.strip()))
            case _:
                return cls(claims=(_jwt_payload(value) if value.count(".") == 2 else None) or _json_object(value))

    def claim(self, name: str | None) -> str | None:
        """A claim by its exact name, else ignoring case; a number is returned as decimal text."""
        if not name or not self.claims:
            return None
        if name in self.claims:
            return _id_text(self.claims[name])
        lower = name.lower()
        return next((_id_text(value) for key, value in self.claims.items() if key.lower() == lower), None)


@lru_cache(maxsize=1024)
def _parsed(value: str) -> Token:
    """Cached, since a caller sends the same token with each request."""
    return Token.parse(value)


def _basic_user(credentials: str) -> str | None:
    decoded = _b64decode(credentials)
    if decoded is None or b":" not in decoded:
        return None
    return text(decoded.partition(b":")[0]).strip() or None


def _jwt_payload(token: str) -> Mapping[str, Any] | None:
    """The payload, whatever follows it: the Kong plugin also reads a token without a signature."""
    parts = token.split(".")
    return _json_object(parts[1]) if len(parts) > 1 else None


def _json_object(encoded: str) -> Mapping[str, Any] | None:
    decoded = _b64decode(encoded)
    if decoded is None:
        return None
    try:
        # The standard library's parser, since it keeps integers beyond 64 bits exact.
        value = json.loads(decoded)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _b64decode(encoded: str) -> bytes | None:
    """Decode base64 with or without padding, in the standard or the URL-safe alphabet; None if invalid."""
    compact = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _id_text(value: object) -> str | None:
    match value:
        case bool() | None:
            return None
        case str():
            # JSON escapes allow a lone surrogate, which cannot be sent.
            return value.encode(errors="replace").decode().strip() or None
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
        case _:
            return None

"""Decides whether a request may pass, from its headers, the keys and the time. Pure.

A token is whatever some service might accept as one: text after `Bearer`, in any case and after any white space, and
anything with the form of a JWT at the end of another scheme's value or without a scheme. Otherwise, other schemes have
no token.

- With keys, the signature is verified first: nothing in a token counts before.
- Without keys, tokens are only parsed: `exp` counts, regardless of `alg`. A token that cannot be parsed passes (it may
  be of another kind), unless a token is required.
- `exp` is the first second that is too late (RFC 7519), `nbf` the first that is valid; without them a token has no end
  or no start. `nbf` counts only with keys.
- With keys, a header without `Bearer` may have a token only at its end; with one anywhere else it is refused.
- Two Authorization headers are refused, since services differ in which one they use. So is a header with `Bearer` where
  only some services would find it, and with keys also one that is not a scheme with credentials.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

from jwt import InvalidTokenError, api_jws

from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.jwt_gate.keys import Key

MOST_TOKEN_BYTES = 16_384
MOST_HEADER_BYTES = 1024
"""A longer claim is not copied: truncated, it might equal another one."""

MOST_LOOKED_AT = 100
"""Parts of a header that are tested for being the start of a token."""

type Claims = Mapping[str, Any]

_BLANK = re.compile(rb"[^\x21-\x7e]+")  # white space for some service: controls, and all of Latin-1 and UTF-8
_BEARER = re.compile(rb"bearer(?: (.*))?", re.IGNORECASE)
_HIDDEN_BEARER = re.compile(rb"^bearer|bearer ", re.IGNORECASE)
_TOKEN = re.compile(rb"[A-Za-z0-9_.\-]+=*")
_JWT = re.compile(rb"[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*")
_DOTTED = re.compile(rb"[A-Za-z0-9_\-.]+")
_OTHER_SCHEME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: .*)?")

# ASCII and Latin-1 controls, Unicode's line and paragraph separators: anything that some parser takes for a line end.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Refusal(StrEnum):
    """Why a request is refused, as told to the client."""

    REQUIRED = "token required"
    INVALID = "invalid token"
    EXPIRED = "token expired"
    EARLY = "token not yet valid"
    UNCHECKED = "the token could not be checked"


class Reading(Enum):
    """Why the content of an Authorization header is unclear."""

    AMBIGUOUS = "a token for some"
    UNREADABLE = "no scheme with credentials"


@dataclass(frozen=True, slots=True)
class Rules:
    """The requirements for requests. `leeway` is in seconds; without `keys`, tokens are parsed but not verified."""

    keys: Sequence[Key] = ()
    required: bool = False
    leeway: int = 0

    def decide(self, fields: Fields, now: float) -> Refusal | Claims:
        """Why the request is refused, or its token's claims (empty without a token, or if it cannot be parsed).

        `fields` are the request's headers, `now` is in seconds since 1970.
        """
        values = [value for name, value in fields if name.lower() == b"authorization"]
        if len(values) > 1:
            return Refusal.INVALID
        token = find_token(values[0]) if values else None
        if token is Reading.AMBIGUOUS or (token is Reading.UNREADABLE and self.keys):
            return Refusal.INVALID
        if not isinstance(token, bytes):
            return Refusal.REQUIRED if self.required else {}
        return self._check(token, now)

    def _check(self, token: bytes, now: float) -> Refusal | Claims:
        signed = read_token(token)
        if self.keys and (signed is None or not signed.verified(self.keys)):
            return Refusal.INVALID
        claims = read_claims(signed.payload) if signed is not None else None
        if claims is None:
            return Refusal.INVALID if self.keys or self.required else {}
        if "exp" in claims and now >= claims["exp"] + self.leeway:
            return Refusal.EXPIRED
        if self.keys and "nbf" in claims and now < claims["nbf"] - self.leeway:
            return Refusal.EARLY
        return claims


def find_token(value: bytes) -> bytes | Reading | None:
    """The token in an Authorization header; None if there is none."""
    plain = _BLANK.sub(b" ", value).strip()
    if bearer := _BEARER.fullmatch(plain):
        return bearer[1]
    if _HIDDEN_BEARER.search(plain):
        return Reading.AMBIGUOUS
    rest, _, last = plain.rpartition(b" ")
    token = last if _JWT.fullmatch(last) else None
    if has_token(rest if token else plain):
        return Reading.UNREADABLE
    return token or (None if not plain or _OTHER_SCHEME.fullmatch(plain) else Reading.UNREADABLE)


def has_token(value: bytes) -> bool:
    """Whether a text contains a JWT: two dots, and a JSON object before the first.

    True if there are too many dots to examine.
    """
    heads = [part for run in _DOTTED.findall(value) for part in run.split(b".")[:-2]]
    return len(heads) > MOST_LOOKED_AT or any(map(_is_object, heads))


def _is_object(part: bytes) -> bool:
    try:
        return isinstance(json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4))), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True, slots=True)
class Signed:
    """A parsed token; its signature is not yet verified."""

    header: Mapping[str, Any]
    payload: bytes
    signature: bytes
    signed: bytes

    def verified(self, keys: Sequence[Key]) -> bool:
        """Whether a key verifies it: one with the token's key id, else one without id; any if the token has no id."""
        algorithm, kid = self.header.get("alg"), self.header.get("kid")
        if not isinstance(algorithm, str):
            return False
        named = [key for key in keys if key.kid == kid]
        candidates = keys if kid is None else named or [key for key in keys if key.kid is None]
        return any(key.verifies(algorithm, self.signed, self.signature) for key in candidates)


def read_token(token: bytes) -> Signed | None:
    """Parse a token in JWS compact form; None if it is not one, or requires an unsupported feature."""
    if len(token) > MOST_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        return None
    try:
        parts = api_jws.decode_complete(token, options={"verify_signature": False})
    except (InvalidTokenError, RecursionError):  # RecursionError: the header is nested too deeply
        return None
    return Signed(parts["header"], parts["payload"], parts["signature"], token.rpartition(b".")[0])


def read_claims(payload: bytes) -> Claims | None:
    """The claims of a payload; None if it is not a JSON object, or `exp` or `nbf` is not a date."""
    try:
        claims = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return None
    dated = isinstance(claims, dict) and all(_is_date(claims[name]) for name in ("exp", "nbf") if name in claims)
    return claims if dated else None


def _is_date(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # raises for an int that is too large for a float
    return isinstance(value, int) and not isinstance(value, bool)


def claim_texts(claims: Claims, wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Header and text of each wanted claim that can be copied."""
    for claim, header in wanted:
        if text := header_text(claims.get(claim)):
            yield header, text


def header_text(value: object) -> str | None:
    """A scalar claim as one line, with `?` for anything that some parser takes for a line end; None if not possible."""
    text = _BREAKING.sub("?", _scalar_text(value) or "").encode(errors="replace").decode().strip()
    return text if 0 < len(text.encode()) <= MOST_HEADER_BYTES else None


def _scalar_text(value: object) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
        case _:
            return None

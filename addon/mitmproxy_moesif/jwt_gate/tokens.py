"""Whether a request may pass, from its headers, the keys and the time. Pure.

A token is what anybody could take for one: after `Bearer` in any case and behind any white space, and whatever has a
JWT's shape at the end of another scheme or without one. Other schemes are no token.

- With keys, the signature comes first: nothing that a token says counts unless a key has verified it.
- Without keys, tokens are only read: `exp` counts, whatever their `alg` says. What cannot be read passes (it may be a
  token of another kind), unless a token is required.
- `exp` is the first second that is too late (RFC 7519), `nbf` the first that counts; without them a token has no end
  or no beginning. `nbf` counts with keys only.
- With keys, a header that is no Bearer's has no token but at its end: one anywhere else in it is refused.
- Two Authorization headers are refused: services differ in which they believe. So is one in which `Bearer` stands where
  only some would find it, and with keys one that is no scheme with credentials.
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
"""A claim that is longer is not copied: cut, it might be another one's."""

MOST_LOOKED_AT = 100
"""Parts of a header that may be the beginning of a token."""

type Claims = Mapping[str, Any]

_BLANK = re.compile(rb"[^\x21-\x7e]+")  # what white space is to somebody: controls, and all of Latin-1 and UTF-8
_BEARER = re.compile(rb"bearer(?: (.*))?", re.IGNORECASE)
_HIDDEN_BEARER = re.compile(rb"^bearer|bearer ", re.IGNORECASE)
_TOKEN = re.compile(rb"[A-Za-z0-9_.\-]+=*")
_JWT = re.compile(rb"[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*")
_DOTTED = re.compile(rb"[A-Za-z0-9_\-.]+")
_OTHER_SCHEME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: .*)?")

# Controls of ASCII and of Latin-1, Unicode's line and paragraph separators: none may end a header line, anywhere.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Refusal(StrEnum):
    """Why a request is refused; what the client is told."""

    REQUIRED = "token required"
    INVALID = "invalid token"
    EXPIRED = "token expired"
    EARLY = "token not yet valid"
    UNCHECKED = "the token could not be checked"


class Reading(Enum):
    """Why nobody can say what an Authorization header holds."""

    AMBIGUOUS = "a token for some"
    UNREADABLE = "no scheme with credentials"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request must bring. `leeway` in seconds; without `keys`, tokens are read and not verified."""

    keys: Sequence[Key] = ()
    required: bool = False
    leeway: int = 0

    def decide(self, fields: Fields, now: float) -> Refusal | Claims:
        """Why the request is refused, or the claims of its token (none, where it has none or it cannot be read).

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
    """The token in an Authorization header; None where it has none."""
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
    """Whether a JWT stands somewhere in it: two dots, and before the first the JSON of an object.

    So it is held where there are more dots than can be looked at.
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
    """A token taken apart, its signature not yet verified."""

    header: Mapping[str, Any]
    payload: bytes
    signature: bytes
    signed: bytes

    def verified(self, keys: Sequence[Key]) -> bool:
        """By a key of the id that the token names or by one that has no id; by any, where the token names none."""
        algorithm, kid = self.header.get("alg"), self.header.get("kid")
        if not isinstance(algorithm, str):
            return False
        named = [key for key in keys if key.kid == kid]
        candidates = keys if kid is None else named or [key for key in keys if key.kid is None]
        return any(key.verifies(algorithm, self.signed, self.signature) for key in candidates)


def read_token(token: bytes) -> Signed | None:
    """The parts of a token in JWS's compact form; None where it is none, or asks for what is not understood."""
    if len(token) > MOST_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        return None
    try:
        parts = api_jws.decode_complete(token, options={"verify_signature": False})
    except (InvalidTokenError, RecursionError):  # the latter of a header that is nested too deep
        return None
    return Signed(parts["header"], parts["payload"], parts["signature"], token.rpartition(b".")[0])


def read_claims(payload: bytes) -> Claims | None:
    """The claims of a payload; None where it is no JSON object, or `exp` or `nbf` is no date."""
    try:
        claims = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return None
    dated = isinstance(claims, dict) and all(_is_date(claims[name]) for name in ("exp", "nbf") if name in claims)
    return claims if dated else None


def _is_date(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # not of an int, which may be too large to ask that of
    return isinstance(value, int) and not isinstance(value, bool)


def claim_texts(claims: Claims, wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Header and text of each claim that is there, fits and has a text."""
    for claim, header in wanted:
        if text := header_text(claims.get(claim)):
            yield header, text


def header_text(value: object) -> str | None:
    """A scalar claim as one line that no header parser breaks: `?` stands for what could; None for everything else."""
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

"""The gate's options in one table; their names are those of mitmproxy's options.

Values are always validated; keys, and their combinations, only if the gate is on (see `keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from mitmproxy_moesif.config.fields import HEADER_NAME, FilePath, Names, Needs, parse_table

PREFIX = "jwt_"

HMAC = ("HS256", "HS384", "HS512")
SIGNATURES = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "ES256K", "EdDSA"),
)

_MEANT_OTHERWISE = frozenset(
    {
        *(b"connection", b"content-length", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"authorization", b"content-encoding", b"content-type", b"expect", b"host"),
    }
)
"""Headers that control framing, interpretation or routing: no claim may be copied into them, and requests need them."""


OF_GATE = Needs("jwt_gate")


class GateSettings(BaseModel):
    """The gate's parameters, validated and immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    jwt_gate: bool = Field(
        False, description="Reject requests whose Bearer token is expired or, if a key is given, fails verification."
    )
    jwt_exit_code: Annotated[int, OF_GATE] = Field(
        401, ge=400, le=599, description="Status code of the response to rejected requests."
    )
    jwt_required: Annotated[bool, OF_GATE] = Field(
        False, description="Also reject requests without a Bearer token or with one that cannot be read."
    )
    jwt_leeway: Annotated[int, OF_GATE] = Field(0, ge=0, le=86_400, description="Seconds of clock skew to tolerate.")
    jwt_claim_headers: Annotated[Names, OF_GATE] = Field(
        (),
        description="List of claim:Header-Name: the claims to copy into response headers. Headers of these names from "
        "clients are removed.",
    )
    jwt_key: Annotated[SecretStr | None, OF_GATE] = Field(
        None, description="Shared key to verify HMAC tokens with. A secret."
    )
    jwt_public_key: Annotated[FilePath, OF_GATE] = Field(
        None, description="PEM file of public keys or certificates to verify tokens with."
    )
    jwt_jwks: Annotated[FilePath, OF_GATE] = Field(None, description="JWKS file of public keys to verify tokens with.")
    jwt_algorithms: Annotated[Names, OF_GATE] = Field(
        (), description="Accepted algorithms; default: HS256 for jwt_key, all for public keys."
    )

    @field_validator("jwt_key", "jwt_public_key", "jwt_jwks")
    @classmethod
    def _is_given(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not text.strip():
            # For instance `--set jwt_key="$KEY"` with an unset variable: nothing would be verified.
            raise ValueError("must not be empty")
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in HMAC + SIGNATURES]:
            raise ValueError(f"{unknown[0]!r} is not among {', '.join(HMAC + SIGNATURES)}")
        return names

    @field_validator("jwt_claim_headers")
    @classmethod
    def _are_pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        seen = set()
        for pair in pairs:
            claim, header = _split(pair)
            if not claim or not HEADER_NAME.fullmatch(header):
                raise ValueError(f"must be a list of claim:Header-Name; {pair!r} is not one")
            if spelling(header.encode()) in _MEANT_OTHERWISE:
                raise ValueError(f"{header} has a special meaning and cannot contain a claim")
            if header.lower() in seen:
                raise ValueError(f"{header} is named twice")
            seen.add(header.lower())
        return pairs

    @property
    def claim_headers(self) -> tuple[tuple[str, str], ...]:
        """Each claim, and the response header into which it is copied."""
        return tuple(map(_split, self.jwt_claim_headers))

    @cached_property
    def withheld(self) -> frozenset[bytes]:
        """The headers into which claims are copied, as returned by `spelling`."""
        return frozenset(spelling(header.encode()) for _, header in self.claim_headers)

    @property
    def key_file(self) -> str | None:
        """The file with the keys, if any."""
        return self.jwt_public_key if self.jwt_public_key is not None else self.jwt_jwks


def spelling(name: bytes) -> bytes:
    """A header's name as CGI and WSGI see it: for them `X_User` and `x-user` are the same."""
    return name.lower().replace(b"_", b"-")


def _split(pair: str) -> tuple[str, str]:
    """Split at the last colon: names of claims are often URLs, while names of headers have no colon."""
    claim, _, header = pair.rpartition(":")
    return claim.strip(), header.strip()


def parse_gate_settings(given: Mapping[str, Any]) -> GateSettings:
    """`GateSettings` from plain values. Raises `SettingsError` with one line about all errors, without secrets."""
    return parse_table(GateSettings, given)

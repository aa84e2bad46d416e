"""The settings that shape an event, parsed once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mitmproxy_moesif.config.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


MASKS = tuple(name for name in Settings.model_fields if name.endswith("_masks"))

_MAKES_A_PATH = re.compile(r"[.*$\[\]{}()\"'<>/\\;|]")

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "apikey", "x-api-key", "api-key", "x-apikey"}
)
"""Headers with credentials, in addition to the configured token headers. Includes those of Kong's key-auth."""


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """The headers and claims that identify user and company; header names are lower-case."""

    user_header: str | None
    company_header: str | None
    token_headers: tuple[str, ...]
    user_claim: str
    company_claim: str | None


@dataclass(frozen=True, slots=True)
class BodyPolicy:
    """How the bodies of one side (requests or responses) are shown."""

    capture: bool
    limit: int  # bytes, before and after decoding
    masks: frozenset[str]  # field names
    decompress: bool
    send_unmaskable: bool


@dataclass(frozen=True, slots=True)
class SidePolicy:
    """What to omit from one side of the event; names of masked headers are `hyphened`."""

    header_masks: frozenset[str]
    underived: frozenset[str]  # masked headers that are ignored when the event is built
    body: BodyPolicy

    def with_masks_of(self, others: Collection[SidePolicy]) -> SidePolicy:
        """A copy that also has the header masks of `others`."""
        return replace(
            self,
            header_masks=self.header_masks.union(*(other.header_masks for other in others)),
            underived=self.underived.union(*(other.underived for other in others)),
        )


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """All settings that are used to build an event."""

    api_version: str
    position: str
    trusted: tuple[Network, ...]
    trusts_all: bool
    identity: IdentityPolicy
    query_masks: frozenset[str]
    request: SidePolicy
    response: SidePolicy

    def with_masks_of(self, others: Collection[EventPolicy]) -> EventPolicy:
        """A copy that also has the header and query masks of `others`."""
        return replace(
            self,
            query_masks=self.query_masks.union(*(other.query_masks for other in others)),
            request=self.request.with_masks_of([other.request for other in others]),
            response=self.response.with_masks_of([other.response for other in others]),
        )


def compile_policy(settings: Settings) -> EventPolicy:
    trusted = parse_networks(settings.trusted_ips)
    return EventPolicy(
        api_version=settings.api_version,
        position=settings.position,
        trusted=trusted,
        trusts_all={0} == {network.prefixlen for network in trusted} and {n.version for n in trusted} == {4, 6},
        identity=IdentityPolicy(
            user_header=_lower(settings.user_id_header),
            company_header=_lower(settings.company_id_header),
            token_headers=settings.authorization_header_name,
            user_claim=settings.authorization_user_id_field,
            company_claim=settings.authorization_company_id_field,
        ),
        query_masks=frozenset(settings.request_query_masks),
        request=_side(settings, "request"),
        response=_side(settings, "response"),
    )


def with_bodies_of(policy: EventPolicy, size: int) -> EventPolicy:
    """A copy with body limits of at least `size` bytes."""

    def wider(side: SidePolicy) -> SidePolicy:
        return replace(side, body=replace(side.body, limit=max(side.body.limit, size)))

    return replace(policy, request=wider(policy.request), response=wider(policy.response))


def masks_in_force(settings: Settings) -> str:
    """The number of names in each mask, as text."""
    counts = [f"{name} {len(value)}" for name in MASKS if (value := settings.__dict__[name])]
    return ", ".join(counts) or "none"


def credentials_in_force(settings: Settings) -> str:
    """What happens to headers with credentials, as text."""
    sent = "are sent" if settings.credential_headers == "send" else "are left out (credential_headers=send sends them)"
    return f"headers with credentials {sent}"


def remark_on_masks(settings: Iterable[Settings]) -> str | None:
    """A remark on masks that look like paths or patterns, and so probably match nothing; None if there are none."""
    odd = {
        mask
        for one in settings
        for name, masks in one
        if name.endswith("_masks")
        for mask in masks or ()
        if _MAKES_A_PATH.search(mask) is not None
    }
    if not odd:
        return None
    return f"masks are names of fields, not paths or patterns; taken as whole names: {', '.join(sorted(odd))}"


def parse_networks(networks: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(network, strict=False) for network in networks)


def _side(settings: Settings, side: Literal["request", "response"]) -> SidePolicy:
    value = settings.__dict__  # the attribute of a deprecated parameter would warn
    masks = frozenset(map(hyphened, value[f"{side}_header_masks"]))
    underived = frozenset[str]() if settings.derive_from_masked else masks
    if settings.credential_headers == "mask":
        masks |= CREDENTIAL_HEADERS.union(map(hyphened, settings.authorization_header_name))
    return SidePolicy(
        masks,
        underived,
        BodyPolicy(
            capture=not value[f"disable_capture_{side}_body"],
            limit=value[f"{side}_max_body_size_limit"],
            masks=frozenset(value[f"{side}_body_masks"] or value[f"{side}_masks"]),
            decompress=not settings.disable_gzip_payload_decompression,
            send_unmaskable=settings.unmaskable_bodies == "send",
        ),
    )


def hyphened(name: str) -> str:
    """A lower-case header name as used for masking: for CGI and WSGI, `X_Key` is the same header as `X-Key`."""
    return name.replace("_", "-")


def _lower(name: str | None) -> str | None:
    return None if name is None else name.strip().lower()

"""The settings that shape an event, parsed once."""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.event.address import Network, parse_networks
from mitmproxy_moesif.event.bodies import BodyPolicy
from mitmproxy_moesif.event.identity import IdentityPolicy


@dataclass(frozen=True, slots=True)
class SidePolicy:
    """What to leave out of one side of the event; header names are lower-case."""

    header_masks: frozenset[str]
    body: BodyPolicy


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """Everything that building an event reads."""

    api_version: str
    position: str
    trusted: tuple[Network, ...]
    trusts_all: bool
    identity: IdentityPolicy
    query_masks: frozenset[str]
    request: SidePolicy
    response: SidePolicy


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
        request=_request_side(settings),
        response=_response_side(settings),
    )


def _request_side(settings: Settings) -> SidePolicy:
    masks = settings.request_body_masks or settings.__dict__["request_masks"]
    return SidePolicy(
        frozenset(settings.request_header_masks),
        BodyPolicy(
            capture=not settings.disable_capture_request_body,
            limit=settings.request_max_body_size_limit,
            masks=frozenset(masks),
            decompress=not settings.disable_gzip_payload_decompression,
            send_unmaskable=settings.unmaskable_bodies == "send",
        ),
    )


def _response_side(settings: Settings) -> SidePolicy:
    masks = settings.response_body_masks or settings.__dict__["response_masks"]
    return SidePolicy(
        frozenset(settings.response_header_masks),
        BodyPolicy(
            capture=not settings.disable_capture_response_body,
            limit=settings.response_max_body_size_limit,
            masks=frozenset(masks),
            decompress=not settings.disable_gzip_payload_decompression,
            send_unmaskable=settings.unmaskable_bodies == "send",
        ),
    )


def _lower(name: str | None) -> str | None:
    return None if name is None else name.strip().lower()

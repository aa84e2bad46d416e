"""Every parameter in one table: the pydantic model `Settings`.

From its fields come the mitmproxy options (`moesif_<name>`), the environment names (`MOESIF_<NAME>`), the `config:` of
a Kong plugin entry, the validation, the Admin API's schema and the README's table. Nothing else in the package knows
a default or a bound.

Units: milliseconds and bytes, as in Kong. Lists are given comma-separated or repeated.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from mitmproxy_moesif.config.fields import (
    Names,
    OptionalName,
    OptionalPath,
    Property,
    SettingsError,
    parameters_with,
    parse_table,
    secrets_of,
)

__all__ = ["SECRETS", "START_ONLY", "Settings", "SettingsError", "parse_settings"]

MAX_MS = 2**31 - 2
MAX_BYTES = 2**53

Milliseconds = Annotated[int, Field(ge=0, le=MAX_MS)]
Percent = Annotated[int, Field(ge=0, le=100)]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Settings(BaseModel):
    """The parameters of one instance, validated and immutable. `model_fields_set` tells the given ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # --- as Kong's plugin has them -------------------------------------------------------------------------------
    application_id: SecretStr = Field(
        SecretStr(""), description="Moesif's collector application id; required. A secret: never shown."
    )
    api_endpoint: str = Field(
        "https://api.moesif.net",
        description="Base URL of the collector; also Moesif's secure proxy (http://localhost:9500/collector).",
    )
    timeout: Milliseconds = Field(
        1000,
        description="Deprecated: serves for both timeouts below where they are not given.",
        deprecated="use connect_timeout and send_timeout",
    )
    connect_timeout: Milliseconds = Field(1000, gt=0, description="ms to connect to the collector.")
    send_timeout: Milliseconds = Field(5000, gt=0, description="ms to send a batch and to read the answer.")
    keepalive: Milliseconds = Field(
        5000, description="ms an idle connection to the collector is kept before it is closed."
    )
    api_version: str = Field("1.0", description="Tag put on the event's request.")
    disable_capture_request_body: bool = Field(False, description="No request body in the event.")
    disable_capture_response_body: bool = Field(False, description="No response body in the event.")
    request_header_masks: Names = Field((), description="Request headers left out of the event, in any case.")
    response_header_masks: Names = Field((), description="Response headers left out of the event, in any case.")
    request_body_masks: Names = Field((), description="Fields removed from the request body, at any depth.")
    response_body_masks: Names = Field((), description="Fields removed from the response body, at any depth.")
    request_masks: Names = Field(
        (),
        description="Deprecated name of request_body_masks; used where that is empty.",
        deprecated="use request_body_masks",
    )
    response_masks: Names = Field(
        (),
        description="Deprecated name of response_body_masks; used where that is empty.",
        deprecated="use response_body_masks",
    )
    request_query_masks: Names = Field((), description="Query parameters whose values become `*****`.")
    batch_size: int = Field(50, ge=1, le=1000, description="Most events in one request to the collector.")
    user_id_header: OptionalName = Field(None, description="Request or response header that holds the user id.")
    company_id_header: OptionalName = Field(None, description="Request or response header that holds the company id.")
    authorization_header_name: Names = Field(
        ("authorization",), description="Request header with the token; a list is tried in order."
    )
    authorization_user_id_field: str = Field("sub", description="Claim that holds the user id.")
    authorization_company_id_field: OptionalName = Field(None, description="Claim that holds the company id.")
    disable_gzip_payload_decompression: bool = Field(
        False, description="Bodies are not decompressed: they go base64 as they came."
    )
    max_callback_time_spent: Milliseconds = Field(
        750, gt=0, description="ms that one wake-up of the sender may spend sending before it yields."
    )
    request_max_body_size_limit: Bytes = Field(
        100_000, description="A larger request body is left out of the event whole, never cut; bytes."
    )
    response_max_body_size_limit: Bytes = Field(
        100_000, description="A larger response body is left out of the event whole, never cut; bytes."
    )
    event_queue_size: int = Field(
        100_000, ge=1, le=2**31 - 1, description="Most events waiting in memory; past it new ones are dropped, counted."
    )
    disable_transaction_id: bool = Field(False, description="No X-Moesif-Transaction-Id header is added.")
    enable_compression: bool = Field(False, description="Batches are sent with Content-Encoding: deflate.")
    debug: bool = Field(False, description="The addon's own debug log; never a body or a secret.")
    enabled: bool = Field(True, description="false: traffic passes, nothing is captured.")

    # --- ours ----------------------------------------------------------------------------------------------------
    queue_max_bytes: Bytes = Field(
        268_435_456, ge=1_000_000, description="Most bytes of events waiting in memory; past it new ones are dropped."
    )
    batch_max_bytes: Bytes = Field(
        10_000_000, ge=1000, le=50_000_000, description="Most bytes of JSON in one request to the collector."
    )
    flush_interval: Milliseconds = Field(500, ge=1, description="ms an event waits at most for its batch to fill.")
    position: Literal["auto", "front", "behind"] = Field(
        "auto", description="Where the proxy stands: in front of Kong, behind it, or told from each request."
    )
    trusted_ips: Names = Field(
        ("0.0.0.0/0", "::/0"), description="CIDR list: peers whose client-address headers are believed."
    )
    unmaskable_bodies: Literal["drop", "send"] = Field(
        "drop", description="What happens to a body that cannot be parsed while body masks are set."
    )
    sink_file: OptionalPath = Field(
        None, description="Events also go to this file as NDJSON; without an application id, only there."
    )
    spool_dir: Annotated[OptionalPath, Property.START_ONLY] = Field(
        None, description="Folder of the spool; default: moesif-spool in mitmproxy's confdir; `off`: memory only."
    )
    background: Annotated[Literal["process", "threads"], Property.START_ONLY] = Field(
        "process", description="Where events are built, kept and sent: a process beside the proxy's, or its threads."
    )
    spool_max_bytes: Annotated[Bytes, Property.LOCAL] = Field(
        1_073_741_824, ge=1_000_000, description="Most bytes on disk; past it new events are dropped, counted."
    )
    stream: bool = Field(
        True, description="Bodies pass chunk by chunk; false: they are buffered, for other addons that need them."
    )
    fast_dispatch: bool = Field(
        True, description="mitmproxy calls its addons through a prepared table; only on versions it was tested with."
    )
    governance: Literal["on", "off"] = Field("on", description="`off`: no rule is enforced; sampling stays.")
    governance_fail: Literal["open", "closed"] = Field(
        "open", description="What an error while rules are evaluated does: the request passes, or it gets 503."
    )
    rules_file: OptionalPath = Field(
        None, description="File of rules of one's own (JSON or YAML), ahead of Moesif's; watched."
    )
    sample_rate: Percent | None = Field(
        None, description="Per cent of the exchanges that become events, in place of all rates from Moesif."
    )
    skip: OptionalName = Field(
        None,
        description="mitmproxy filter of requests that are not captured: `~u /health | ~m OPTIONS`.",
    )
    hooks: OptionalPath = Field(
        None, description="Python file with functions that identify, mask, skip or add metadata."
    )
    kong_config: Annotated[OptionalPath, Property.START_ONLY] = Field(
        None, description="Kong's declarative file (YAML or JSON): its `moesif` plugins are our instances; watched."
    )
    kong_admin_url: Annotated[OptionalName, Property.START_ONLY] = Field(
        None, description="Kong's Admin API, in place of a file; asked every 30 s."
    )
    kong_admin_token: Annotated[SecretStr, Property.START_ONLY] = Field(
        SecretStr(""), description="Sent to it as Kong-Admin-Token. A secret."
    )
    admin_listen: Annotated[OptionalName, Property.START_ONLY] = Field(
        None, description="host:port of status, metrics, health and the Admin API, e.g. 127.0.0.1:8095; none: off."
    )
    admin_token: Annotated[SecretStr, Property.START_ONLY] = Field(
        SecretStr(""), description="Token that the Admin API asks for; required beyond loopback. A secret."
    )
    admin_state: Annotated[OptionalPath, Property.START_ONLY] = Field(
        None, description="File that keeps changes made through the Admin API across restarts."
    )
    shutdown_timeout: Milliseconds = Field(5000, description="ms to deliver what waits when the proxy ends.")

    @field_validator("api_endpoint", "kong_admin_url")
    @classmethod
    def _is_http_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError("must be an http or https URL without credentials and query")
        return url.rstrip("/")

    @field_validator("trusted_ips")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"must be a list of IP networks in CIDR form; {network!r} is none") from None
        return networks

    @field_validator("authorization_header_name", "request_header_masks", "response_header_masks")
    @classmethod
    def _are_lower(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in names)

    @field_validator("application_id")
    @classmethod
    def _fits_a_header(cls, secret: SecretStr) -> SecretStr:
        value = secret.get_secret_value().strip()
        if not (value.isascii() and (value.isprintable() or not value)):
            raise ValueError("must be printable ASCII, as the application id in Moesif's settings is")
        return SecretStr(value)

    @property
    def connect_seconds(self) -> float:
        return self._either("connect_timeout") / 1000

    @property
    def send_seconds(self) -> float:
        return self._either("send_timeout") / 1000

    def _either(self, name: str) -> int:
        """The deprecated `timeout` serves where it alone was given."""
        given = self.model_fields_set
        value: int = self.__dict__["timeout" if "timeout" in given and not name_given(given) else name]
        return max(1, value)


def name_given(given: set[str]) -> bool:
    return bool(given & {"connect_timeout", "send_timeout"})


SECRETS = secrets_of(Settings)
START_ONLY = parameters_with(Settings, Property.START_ONLY)


def parse_settings(given: Mapping[str, Any]) -> Settings:
    """`Settings` from plain values. Raises `SettingsError` with one line for all that is wrong; shows no secret."""
    return parse_table(Settings, given)

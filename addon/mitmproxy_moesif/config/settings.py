"""Every parameter in one table: the pydantic model `Settings`.

From its fields come the mitmproxy options (`moesif_<name>`; Akto's keep their `akto_<name>`), the environment names
(the same in capitals), the `config:` of a Kong plugin entry, the validation, the Admin API's schema and
compose/OPTIONS.md. Nothing else in the package knows a default or a bound.

Units: milliseconds and bytes, as in Kong. Lists are given comma-separated or repeated.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from mitmproxy_moesif.config.fields import (
    HeaderNames,
    Names,
    Needs,
    OptionalHeaderName,
    OptionalName,
    OptionalPath,
    Property,
    SettingsError,
    fitting,
    parameters_with,
    parse_table,
    plain_types,
    secrets_of,
)
from mitmproxy_moesif.config.text import http_url

__all__ = ["AKTO_PREFIX", "SECRETS", "START_ONLY", "Settings", "SettingsError", "option_name", "parse_settings"]

AKTO_PREFIX = "akto_"
"""Prefix of the parameters of the receiver Akto, which has its own plugin in Kong."""

MAX_MS = 2**31 - 2
MAX_BYTES = 2**53
MAX_RECENT = 1_000_000
DEFAULT_RECENT = 1000

_BROKER = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):[0-9]{1,5}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,244}")  # Kafka takes 249; `.dead` has to fit

# A field with its own bound must be an `int`: of two bounds on one side pydantic keeps one, since 2.12 these types'.
Milliseconds = Annotated[int, Field(ge=0, le=MAX_MS)]
Percent = Annotated[int, Field(ge=0, le=100)]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Settings(BaseModel):
    """The parameters of one instance, validated and immutable. `model_fields_set` has the given ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # --- as Kong's plugin has them -------------------------------------------------------------------------------
    application_id: Annotated[SecretStr, Property.RECEIVER] = Field(
        SecretStr(""), description="Collector Application ID of your Moesif account; required. A secret, never shown."
    )
    api_endpoint: str = Field(
        "https://api.moesif.net",
        description="Base URL of the collector, or of Moesif's secure proxy (http://localhost:9500/collector).",
    )
    timeout: Milliseconds = Field(
        1000,
        description="Deprecated: sets both timeouts below unless one of them is given.",
        deprecated="use connect_timeout and send_timeout",
    )
    connect_timeout: Milliseconds = Field(1000, gt=0, description="Milliseconds allowed to connect to the collector.")
    send_timeout: Milliseconds = Field(
        5000, gt=0, description="Milliseconds allowed to send a batch and read the response."
    )
    keepalive: Milliseconds = Field(5000, description="Milliseconds an idle connection to the collector is kept open.")
    api_version: str = Field("1.0", description="API version recorded with the request of each event.")
    disable_capture_request_body: bool = Field(False, description="Leave request bodies out of events.")
    disable_capture_response_body: bool = Field(False, description="Leave response bodies out of events.")
    request_header_masks: HeaderNames = Field(
        (), description="Request headers to leave out of events; case-insensitive."
    )
    response_header_masks: HeaderNames = Field(
        (), description="Response headers to leave out of events; case-insensitive."
    )
    request_body_masks: Names = Field((), description="Fields to remove from request bodies, at any depth.")
    response_body_masks: Names = Field((), description="Fields to remove from response bodies, at any depth.")
    request_masks: Names = Field(
        (),
        description="Deprecated name of request_body_masks; used if that is empty.",
        deprecated="use request_body_masks",
    )
    response_masks: Names = Field(
        (),
        description="Deprecated name of response_body_masks; used if that is empty.",
        deprecated="use response_body_masks",
    )
    request_query_masks: Names = Field((), description="Query parameters whose values are replaced by `*****`.")
    batch_size: int = Field(
        50,
        ge=1,
        le=1000,
        description="Maximum events per request to the collector; a backlog is sent in larger batches.",
    )
    user_id_header: OptionalHeaderName = Field(None, description="Request or response header that holds the user ID.")
    company_id_header: OptionalHeaderName = Field(
        None, description="Request or response header that holds the company ID."
    )
    authorization_header_name: HeaderNames = Field(
        ("authorization",), description="Request headers that may hold the token; the first one present is used."
    )
    authorization_user_id_field: str = Field("sub", description="Token claim that holds the user ID.")
    authorization_company_id_field: OptionalName = Field(None, description="Token claim that holds the company ID.")
    disable_gzip_payload_decompression: bool = Field(
        False, description="Send compressed bodies as they are, in base64, instead of decompressing them."
    )
    max_callback_time_spent: Milliseconds = Field(
        750, gt=0, description="Milliseconds a sender may spend sending before it yields."
    )
    request_max_body_size_limit: Bytes = Field(
        100_000, description="Maximum bytes of a request body; a larger one is left out, never truncated."
    )
    response_max_body_size_limit: Bytes = Field(
        100_000, description="Maximum bytes of a response body; a larger one is left out, never truncated."
    )
    event_queue_size: int = Field(
        100_000,
        ge=1,
        le=2**31 - 1,
        description="Maximum events queued in memory by each worker; further events are dropped and counted.",
    )
    disable_transaction_id: bool = Field(False, description="Do not add the X-Moesif-Transaction-Id header.")
    enable_compression: bool = Field(False, description="Compress batches (Content-Encoding: deflate).")
    debug: bool = Field(False, description="Log what the addon does; never logs a body or a secret.")
    enabled: bool = Field(
        True, description="Capture traffic; if false, traffic passes through and nothing is captured."
    )

    # --- ours ----------------------------------------------------------------------------------------------------
    queue_max_bytes: int = Field(
        268_435_456,
        ge=1_000_000,
        le=MAX_BYTES,
        description="Maximum bytes of events queued in memory by each worker; further events are dropped and counted.",
    )
    batch_max_bytes: int = Field(
        10_000_000, ge=1000, le=50_000_000, description="Maximum bytes of JSON per request to the collector."
    )
    flush_interval: int = Field(
        500, ge=1, le=MAX_MS, description="Maximum milliseconds an event waits for its batch to fill."
    )
    position: Literal["auto", "front", "behind"] = Field(
        "auto", description="Where the proxy runs: in front of Kong, behind it, or detected per request."
    )
    trusted_ips: Names = Field(
        ("0.0.0.0/0", "::/0"), description="CIDR ranges of the peers whose client address headers are trusted."
    )
    unmaskable_bodies: Literal["drop", "send"] = Field(
        "drop", description="Whether to drop or send a body that body masks apply to but that cannot be parsed."
    )
    credential_headers: Literal["mask", "send"] = Field(
        "mask",
        description="Whether headers that carry credentials are left out of events (mask) or sent; they identify the "
        "caller either way.",
    )
    derive_from_masked: bool = Field(
        True,
        description="Keep data from masked headers in events: user and company ID, IP address, trace ID, Kong's names. "
        "If false, events are built as if those headers were absent.",
    )
    sink_file: Annotated[OptionalPath, Property.RECEIVER] = Field(
        None, description="File to which events are also written as NDJSON; without an application ID, only there."
    )
    kafka_brokers: Annotated[Names, Property.RECEIVER] = Field(
        (),
        description="host:port of Kafka brokers; if set, events go to Kafka instead of Moesif "
        "(`moesif-proxy forward` delivers them from there).",
    )
    kafka_topic: str = Field("moesif.events", description="Kafka topic for events; one topic for each application ID.")
    kafka_config: Annotated[SecretStr, Property.LOCAL] = Field(
        SecretStr(""),
        description="More librdkafka settings (TLS, SASL, ...): `key=value,key=value`, or a file with one "
        "`key=value` per line. A secret.",
    )
    akto_service_url: OptionalName = Field(
        None, description="Base URL of Akto's ingest service; if set, records of the exchanges go there too."
    )
    akto_timeout: Milliseconds = Field(
        30_000,
        gt=0,
        description="Milliseconds allowed for a call to Akto; at most 3 s to connect, 5 s to send and 3 s to read.",
    )
    akto_log_level: Literal["debug", "info", "warn", "error"] = Field(
        "warn", description="Minimum level of log lines about Akto."
    )
    akto_api_key: Annotated[SecretStr, Needs("akto_service_url")] = Field(
        SecretStr(""), description="Key sent to Akto as x-api-key and Authorization. A secret."
    )
    akto_account_id: str = Field(
        "1000000", pattern=r"^[0-9]{1,19}$", coerce_numbers_to_str=True, description="Account ID in Akto's records."
    )
    akto_kafka_brokers: Names = Field((), description="host:port of Kafka brokers, for `akto_transport=kafka`.")
    akto_kafka_topic: str = Field("akto.api.logs", description="Kafka topic for Akto's records.")
    akto_transport: Literal["http", "kafka"] = Field(
        "http", description="Whether records go to Akto's ingest service or to the Kafka topic that its runtime reads."
    )
    spool_dir: Annotated[OptionalPath, Property.START_ONLY] = Field(
        None, description="Folder for events on disk; default: moesif-spool in mitmproxy's confdir; `off`: memory only."
    )
    background: Annotated[Literal["process", "threads"], Property.START_ONLY] = Field(
        "process",
        description="Whether events are built, stored and sent by a separate process or by threads of the proxy.",
    )
    spool_max_bytes: Annotated[int, Property.LOCAL, Property.PROXY] = Field(
        1_073_741_824,
        ge=1_000_000,
        le=MAX_BYTES,
        description="Maximum bytes of events on disk of each worker; further events are dropped and counted.",
    )
    stream: bool = Field(
        True, description="Stream bodies chunk by chunk; if false, buffer them for other addons that need whole bodies."
    )
    fast_dispatch: Annotated[bool, Property.PROXY] = Field(
        True, description="Call addons through a precomputed table; only on tested mitmproxy versions."
    )
    engine: Annotated[Literal["auto", "fast", "mitmproxy"], Property.START_ONLY] = Field(
        "auto",
        description="What handles HTTP/1: the fast lane wherever possible (auto), the same with a warning if it is "
        "not possible (fast), or mitmproxy's layers (mitmproxy).",
    )
    governance: Literal["on", "off"] = Field(
        "on", description="Whether governance rules are enforced; sampling is not affected."
    )
    governance_fail: Literal["open", "closed"] = Field(
        "open", description="If rules fail or cannot read a body, let the request pass (open) or answer 503 (closed)."
    )
    rules_file: OptionalPath = Field(
        None, description="JSON or YAML file of your own rules, evaluated before Moesif's; watched for changes."
    )
    sample_rate: Percent | None = Field(
        None, description="Percentage of exchanges to capture, overriding all rates from Moesif."
    )
    skip: Annotated[OptionalName, Property.PROXY] = Field(
        None,
        description="mitmproxy filter for requests not to capture; anchor its patterns: `~u ^https?://[^/]+/health$`.",
    )
    hooks: OptionalPath = Field(
        None, description="Python file with functions that identify callers, mask or skip events, or add metadata."
    )
    kong_config: Annotated[OptionalPath, Property.START_ONLY] = Field(
        None,
        description="Kong's declarative YAML or JSON file; its `moesif` plugins become instances; watched for changes.",
    )
    kong_admin_url: Annotated[OptionalName, Property.START_ONLY] = Field(
        None, description="URL of Kong's Admin API, used if kong_config is not set; polled every 30 seconds."
    )
    kong_admin_token: Annotated[SecretStr, Property.START_ONLY, Needs("kong_admin_url")] = Field(
        SecretStr(""), description="Token sent to Kong's Admin API as Kong-Admin-Token. A secret."
    )
    kong_router_flavor: Annotated[
        Literal["auto", "traditional", "traditional_compatible", "expressions"], Property.START_ONLY
    ] = Field(
        "auto",
        description="Kong's `router_flavor`, which decides how routes are ranked; auto: what its Admin API reports, "
        "else traditional.",
    )
    admin_listen: Annotated[OptionalName, Property.START_ONLY] = Field(
        None,
        description="host:port for status, metrics, health and the Admin API, such as 127.0.0.1:8095; off by default.",
    )
    admin_token: Annotated[SecretStr, Property.START_ONLY, Needs("admin_listen")] = Field(
        SecretStr(""),
        description="Token required by the Admin API; mandatory unless it listens on loopback only. A secret.",
    )
    admin_state: Annotated[OptionalPath, Property.START_ONLY, Needs("admin_listen")] = Field(
        None, description="File that keeps changes made through the Admin API across restarts."
    )
    recent: Annotated[int | None, Field(ge=0, le=MAX_RECENT), Property.START_ONLY] = Field(
        None,
        description="Newest exchanges kept in memory for `/exchanges`; default: 1000 if `admin_listen` is set or "
        "in mitmweb and mitmproxy, otherwise 0.",
    )
    recent_raw: Annotated[bool, Property.START_ONLY] = Field(
        False, description="Also keep what masks remove from these exchanges, in memory only; for debugging."
    )
    shutdown_timeout: Annotated[Milliseconds, Property.PROXY] = Field(
        5000, description="Milliseconds allowed to deliver pending events at shutdown."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _fits(cls, given: object, info: ValidationInfo) -> object:
        return fitting(plain_types(cls.model_fields[info.field_name or ""].annotation), given)

    @field_validator("api_endpoint", "kong_admin_url", "akto_service_url")
    @classmethod
    def _is_http_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        http_url(url)
        return url.rstrip("/")

    @field_validator("sink_file")
    @classmethod
    def _is_of_the_started_process(cls, path: str | None) -> str | None:
        """Standard output is the started process's, whichever process writes to the file."""
        number = {"/dev/stdout": 1, "/dev/stderr": 2}.get(path or "")
        return path if number is None else f"/proc/{os.getpid()}/fd/{number}"

    @field_validator("akto_transport")
    @classmethod
    def _has_brokers(cls, transport: str, info: ValidationInfo) -> str:
        if transport == "kafka" and not info.data.get("akto_kafka_brokers"):
            raise ValueError("kafka needs akto_kafka_brokers")
        return transport

    @field_validator("kafka_brokers", "akto_kafka_brokers")
    @classmethod
    def _are_brokers(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers:
            if not _BROKER.fullmatch(broker):
                raise ValueError("must be a list of HOST:PORT, without a scheme")
        return brokers

    @field_validator("kafka_topic", "akto_kafka_topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic):
            raise ValueError("must be a Kafka topic: up to 244 letters, digits, dots, underscores and hyphens")
        return topic

    @field_validator("trusted_ips")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"must be a list of IP networks in CIDR form; {network!r} is not one") from None
        return networks

    @field_validator("authorization_header_name", "request_header_masks", "response_header_masks")
    @classmethod
    def _are_lower(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in names)

    @field_validator("application_id", "akto_api_key", "kong_admin_token")
    @classmethod
    def _fits_a_header(cls, secret: SecretStr) -> SecretStr:
        value = secret.get_secret_value().strip()
        if not (value.isascii() and (value.isprintable() or not value)):
            raise ValueError("must be printable ASCII, as it goes into a header")
        return SecretStr(value)

    @property
    def has_receiver(self) -> bool:
        """Whether there is any receiver."""
        return self.keeps_events or self.feeds_akto

    @property
    def feeds_akto(self) -> bool:
        """Whether records go to Akto."""
        return self.akto_service_url is not None or self.akto_transport == "kafka"

    @property
    def keeps_events(self) -> bool:
        """Whether events go to a receiver that must not lose any: Moesif, Kafka or a file."""
        return bool(self.application_id.get_secret_value() or self.kafka_brokers or self.sink_file)

    @property
    def masks(self) -> bool:
        """Whether anything is masked."""
        return any(value for name, value in self.__dict__.items() if name.endswith("masks"))

    @property
    def kept_exchanges(self) -> int:
        """How many of the newest exchanges are kept for viewing."""
        if self.recent is not None:
            return self.recent
        return DEFAULT_RECENT if self.admin_listen is not None else 0

    @property
    def connect_seconds(self) -> float:
        return self._either("connect_timeout") / 1000

    @property
    def send_seconds(self) -> float:
        return self._either("send_timeout") / 1000

    def _either(self, name: str) -> int:
        """The parameter's milliseconds, or those of the deprecated `timeout` if only that was given; at least 1."""
        alone = self.model_fields_set & {"timeout", "connect_timeout", "send_timeout"} == {"timeout"}
        value: int = self.__dict__["timeout" if alone else name]
        return max(1, value)


def option_name(parameter: str) -> str:
    """The mitmproxy option of a parameter; in capitals, its environment variable."""
    return parameter if parameter.startswith(AKTO_PREFIX) else f"moesif_{parameter}"


SECRETS = secrets_of(Settings)
START_ONLY = parameters_with(Settings, Property.START_ONLY)

_BOTH_LIMITS = "an earlier plugin's; set request_max_body_size_limit and response_max_body_size_limit"
FORMER = {
    "disable_moesif_payload_compression": "an earlier plugin's; remove it, and where it was false set "
    "enable_compression=true",
    "enable_reading_send_event_response": "an earlier plugin's; remove it: every answer of Moesif is read",
    "enable_skip_gzip_payload_decompression": "an earlier plugin's; set disable_gzip_payload_decompression",
    "max_body_sime_limit": _BOTH_LIMITS,
    "max_body_size_limit": _BOTH_LIMITS,
    "max_events_sent_per_callback": "an earlier plugin's; remove it: all that is due is sent",
    "sampling_percentage": "an earlier plugin's; set sample_rate",
}
"""Parameters that only earlier versions of the Kong plugin had, and what to do about each."""

AS_STARTED = object()
"""In a live change, stands for the option's value before any live change."""


def parse_settings(given: Mapping[str, Any]) -> Settings:
    """`Settings` from plain values. Raises `SettingsError` with one line about all errors, without secrets."""
    return parse_table(Settings, given, FORMER)

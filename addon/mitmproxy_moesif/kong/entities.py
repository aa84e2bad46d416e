"""Kong's entities, validated and immutable: services, routes, consumers, plugins, and the configuration they make up.

One model per kind of entity, for the declarative file and the Admin API's JSON. Fields that are neither used nor shown
are ignored, since they differ between Kong's versions; the others are checked as Kong checks them. References between
entities are resolved before these models are made (declarative.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mitmproxy_moesif.config.fields import UNFIT
from mitmproxy_moesif.config.re2set import PatternError
from mitmproxy_moesif.kong.normalize import from_text
from mitmproxy_moesif.kong.patterns import REST_OF_PATH, Pattern

HTTP_PROTOCOLS = frozenset(("http", "https", "grpc", "grpcs", "ws", "wss"))
"""Protocols of routes for HTTP requests; the others are for plain connections."""

type Protocol = Literal["http", "https", "grpc", "grpcs", "ws", "wss", "tcp", "tls", "tls_passthrough", "udp"]

type Flavor = Literal["traditional", "traditional_compatible", "expressions"]
FLAVORS: tuple[Flavor, ...] = get_args(Flavor.__value__)

_TRUTH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def _yaml_truth(given: object) -> object:
    """Convert YAML 1.1's booleans, which Kong accepts, such as a bare `yes` or `off`."""
    return _TRUTH.get(given.lower(), given) if isinstance(given, str) else given


def _is_path_of_service(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("should start with: /")
    return path


def _is_path_of_route(path: str) -> str:
    if not path.startswith(("/", "~/")):
        raise ValueError(f"{path!r} should start with: / (fixed path) or ~/ (regex path)")
    if "//" in path:
        raise ValueError(f"{path!r} must not have empty segments")
    if path.startswith("~"):
        _check_pattern(path[1:], REST_OF_PATH)
    return path


def _check_pattern(source: str, *endings: bytes) -> None:
    try:
        for ending in (b"", *endings):
            Pattern(from_text(source) + ending)
    except PatternError as error:
        raise ValueError(f"invalid regex: {source!r} ({error})") from None


_WILDCARD = re.compile(r"(\*\.[^*:]+|[^*:]+\.\*)(:\d+)?")


def _is_host(host: str) -> str:
    if not host or re.search(r"[\s/]", host):
        raise ValueError(f"{host!r} is not a host name")
    if host.count("*") > 1:
        raise ValueError(f"{host!r}: invalid wildcard: must have at most one wildcard")
    if "*" in host and not _WILDCARD.fullmatch(host):
        raise ValueError(f"{host!r}: invalid wildcard: must be placed at leftmost or rightmost label")
    return host


def _is_method(method: str) -> str:
    if not re.fullmatch("[A-Z]+", method):
        raise ValueError(f"invalid value: {method!r}")
    return method


def _is_plain(text: str) -> str:
    if UNFIT.search(text):
        raise ValueError("must be text without control characters")
    return text


def _is_tag(tag: str) -> str:
    if set(",/") & set(tag):
        raise ValueError(f"invalid tag {tag!r}: expected printable ascii (except `,` and `/`) or valid utf-8 sequences")
    return _is_plain(tag)


Truth = Annotated[bool, BeforeValidator(_yaml_truth)]
Name = Annotated[str, Field(min_length=1)]
PlainName = Annotated[Name, AfterValidator(_is_plain)]
Tag = Annotated[Name, AfterValidator(_is_tag)]
# strict mode would refuse a list for a tuple; the items stay strict
type Items[Item] = Annotated[tuple[Item, ...], Field(strict=False)]
ServicePath = Annotated[str, AfterValidator(_is_path_of_service)]
RoutePath = Annotated[str, AfterValidator(_is_path_of_route)]
Host = Annotated[str, AfterValidator(_is_host)]
Method = Annotated[str, AfterValidator(_is_method)]
Timeout = Annotated[int, Field(ge=1, le=2**31 - 2)]


class Entity(BaseModel):
    """Base of all kinds: immutable, with tags and an id (given, or derived from the name or place)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)

    id: Name
    tags: Items[Tag] = ()
    created_at: Annotated[int, Field(strict=False)] | None = None
    updated_at: Annotated[int, Field(strict=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_and_empty_are_absent(cls, given: Any) -> Any:
        """Drop null, which Kong writes for unset fields, and empty maps, which Lua cannot distinguish from lists."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None and value not in ({}, [])}


class Service(Entity):
    """The target of routes. `path` is put before the request's path; `url` sets four fields at once."""

    name: Name | None = None
    protocol: Protocol = "http"
    host: Name
    port: Annotated[int, Field(ge=0, le=65535)] = 80
    path: ServicePath | None = None
    enabled: Truth = True
    retries: Annotated[int, Field(ge=0, le=32_767)] = 5
    connect_timeout: Timeout = 60_000
    write_timeout: Timeout = 60_000
    read_timeout: Timeout = 60_000

    @model_validator(mode="before")
    @classmethod
    def _url_is_four_fields(cls, given: Any) -> Any:
        url = given.get("url") if isinstance(given, dict) else None
        return given if url is None else {**given, **_url_fields(url)}


def _url_fields(url: object) -> dict[str, object]:
    if not isinstance(url, str):
        raise ValueError("url: expected a string")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("url: is not a URL") from None
    if not parts.scheme or not parts.hostname:
        raise ValueError("url: should be protocol://host:port/path")
    fields: dict[str, object] = {"protocol": parts.scheme, "host": parts.hostname, "path": parts.path or None}
    if port is not None or parts.scheme == "https":
        fields["port"] = 443 if port is None else port
    return fields


class Route(Entity):
    """The conditions under which a request goes to a service: all must hold; for each, one of its values is enough.

    `paths` starting with `~` are regular expressions. `headers` have lower-case names. `created_at` is in seconds.
    An `expression` replaces the conditions; it is parsed by expressions.py.
    """

    name: Name | None = None
    service: Service | None = None
    protocols: Items[Protocol] = ("http", "https")
    methods: Items[Method] = ()
    hosts: Items[Host] = ()
    paths: Items[RoutePath] = ()
    headers: dict[Name, Items[str]] = Field(default_factory=dict)
    snis: Items[Name] = ()
    strip_path: Truth = True
    path_handling: Literal["v0", "v1"] = "v0"
    regex_priority: int = 0
    preserve_host: Truth = False
    https_redirect_status_code: Literal[426, 301, 302, 307, 308] = 426
    request_buffering: Truth = True
    response_buffering: Truth = True
    expression: str | None = None
    priority: Annotated[int, Field(ge=0, lt=2**46)] = 0
    sources: Items[Any] = ()
    destinations: Items[Any] = ()

    @field_validator("headers")
    @classmethod
    def _are_conditions(cls, headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        lower = {name.lower(): values for name, values in headers.items()}
        if "host" in lower:
            raise ValueError("cannot contain 'host' header, which must be specified in the 'hosts' attribute")
        for values in lower.values():
            if len(values) == 1 and values[0].startswith("~*"):
                _check_pattern(values[0][2:])
        return lower

    @model_validator(mode="before")
    @classmethod
    def _empty_hosts_are_kept(cls, given: Any) -> Any:
        """Unlike other empty lists, that of the hosts makes a difference: see `has_plain_hosts_only`."""
        return {**given, "hosts": ()} if isinstance(given, dict) and given.get("hosts") in ({}, []) else given

    @model_validator(mode="before")
    @classmethod
    def _grpc_strips_nothing(cls, given: Any) -> Any:
        protocols = given.get("protocols") if isinstance(given, dict) else None
        if not isinstance(protocols, list) or not {"grpc", "grpcs"}.intersection(map(str, protocols)):
            return given
        if given.get("strip_path") is True:
            raise ValueError("strip_path: cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'")
        return {**given, "strip_path": False}

    @model_validator(mode="after")
    def _has_a_condition(self) -> Route:
        has_one = bool(self.methods or self.hosts or self.headers or self.paths or self.snis)
        if self.expression is not None and (has_one or self.sources or self.destinations):
            others = "'methods', 'hosts', 'paths', 'headers', 'snis', 'sources' or 'destinations'"
            raise ValueError(f"expression: cannot set 'expression' with {others} simultaneously")
        if not self.is_http or self.expression is not None:
            return self
        for name in ("sources", "destinations"):
            if getattr(self, name):
                raise ValueError(f"{name}: is not supported on routes for HTTP; use an expression with net.src.ip")
        if not has_one:
            conditions = "'methods', 'hosts', 'headers', 'paths', 'snis'"
            raise ValueError(f"must set one of {conditions} when 'protocols' is {self.protocols[0]!r}")
        return self

    @property
    def is_http(self) -> bool:
        return not HTTP_PROTOCOLS.isdisjoint(self.protocols)

    @property
    def has_plain_hosts_only(self) -> bool:
        """Whether Kong ranks it as a route without wildcard hosts. An empty list of hosts counts too, none does not."""
        return "hosts" in self.model_fields_set and not any("*" in host for host in self.hosts)

    @property
    def needs_tls(self) -> bool:
        """Whether Kong refuses or redirects plain HTTP requests on this route (`https_redirect_status_code`)."""
        return "https" in self.protocols and "http" not in self.protocols


class Consumer(Entity):
    """A caller known to Kong's authentication plugins. `group_ids` are in order of precedence."""

    username: Name | None = None
    custom_id: Name | None = None
    group_ids: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_name(self) -> Consumer:
        if self.username is None and self.custom_id is None:
            raise ValueError("at least one of these fields must be non-empty: 'custom_id', 'username'")
        return self


class Plugin(Entity):
    """One plugin instance: its plugin's `name`, its `config` (not validated here), and the ids of its scope."""

    name: PlainName
    instance_name: PlainName | None = None
    config: dict[str, Any] = Field(default_factory=dict, repr=False)
    enabled: Truth = True
    protocols: Items[Protocol] | None = None
    service_id: str | None = None
    route_id: str | None = None
    consumer_id: str | None = None
    consumer_group_id: str | None = None


@dataclass(frozen=True)
class KongConfig:
    """All entities of a Kong, with resolved references. `version` is the file's `_format_version`, None if none.

    `not_understood`: an error for each route whose expression is not understood. `flavor`: the flavour of Kong's
    router.
    """

    services: tuple[Service, ...] = ()
    routes: tuple[Route, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    version: str | None = None
    not_understood: tuple[str, ...] = ()
    flavor: Flavor = "traditional"

    def find_consumer(
        self, consumer_id: str | None = None, username: str | None = None, custom_id: str | None = None
    ) -> Consumer | None:
        """The consumer of a request, by the first of the three that is known here; None if none is known."""
        by_id, by_username, by_custom_id = self._consumers
        return by_id.get(consumer_id) or by_username.get(username) or by_custom_id.get(custom_id)

    @cached_property
    def _consumers(self) -> tuple[Mapping[str | None, Consumer], ...]:
        return (
            _index((consumer.id, consumer) for consumer in self.consumers),
            _index((consumer.username, consumer) for consumer in self.consumers),
            _index((consumer.custom_id, consumer) for consumer in self.consumers),
        )


def _index(pairs: Iterable[tuple[str | None, Consumer]]) -> Mapping[str | None, Consumer]:
    return {key: consumer for key, consumer in pairs if key is not None}

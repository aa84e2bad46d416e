"""Applies Kong's own configuration: finds a request's instance, and Kong's names for its service and route.

Each `plugins` entry named `moesif` is one instance, and each `akto-api-discovery` one of Akto. Its `config` is
validated like the options. Options and environment variables override the same field of every instance, and changes
through the Admin API override both. If the configuration has no instance of a name at all, the options are the global
one, besides those added through the Admin API. The two are found independently for each request: it may have both, or
only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mitmproxy_moesif.config.akto import OFF
from mitmproxy_moesif.config.fields import Property, parameters_with
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import AKTO_PREFIX, Settings, SettingsError, parse_settings
from mitmproxy_moesif.event import kong_headers as kong_headers
from mitmproxy_moesif.event.address import client_address, is_trusted
from mitmproxy_moesif.event.exchange import RoutableRequest
from mitmproxy_moesif.event.headers import by_name, flatten, text
from mitmproxy_moesif.kong.entities import Consumer, KongConfig, Plugin, Route, Service
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME
from mitmproxy_moesif.kong.overlay import LivePlugin
from mitmproxy_moesif.kong.router import Match
from mitmproxy_moesif.kong.scopes import AKTO, CAPTURING, MOESIF, ScopeConflict, Scopes, depend_on_routes
from mitmproxy_moesif.log import log

EVENT_RECEIVERS = parameters_with(Settings, Property.RECEIVER)
PROXY_WIDE = parameters_with(Settings, Property.PROXY, Property.START_ONLY)

type On = tuple[Route | None, Service | None, Consumer | None]
"""A request's route, service and consumer."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The instance of a request (None: it is not captured), and `metadata.kong` as far as known."""

    instance: Instance | None
    kong: dict[str, object]


class Resolver:
    """A Kong configuration ready for use: its router, and its instances compiled by plugin id.

    `akto`: the settings of Akto's instances by plugin id. `alone`: the instance of exchanges that go only to Akto; None
    if nothing goes to Akto.
    """

    def __init__(self, config: KongConfig, given: Mapping[str, Any], previous: Resolver | None = None) -> None:
        """`given`: the options and the environment. Raises `SettingsError` with one line.

        `previous`: reuse its router and instances where nothing has changed.
        """
        ours = [plugin for plugin in config.plugins if plugin.name == MOESIF]
        self.has_instances = any(not is_created(plugin) for plugin in ours)
        known = previous.instances if previous is not None else {}
        self.instances: dict[str, Instance] = {p.id: _compile(p, given, known.get(p.id)) for p in ours if p.enabled}
        self.config, self.options = config, () if self.has_instances else (_options_as_plugin(given),)
        if previous is not None and previous.config is config and previous.options == self.options:
            self.scopes: Scopes = previous.scopes
        else:
            self.scopes = _scopes(config, self.options, given)
        akto = [plugin for plugin in config.plugins if plugin.name == AKTO]
        self.has_akto = any(not is_created(plugin) for plugin in akto)
        self.akto = {plugin.id: _parsed(plugin, given) for plugin in akto if plugin.enabled}
        self.alone = _alone(given, previous) if akto or parse_settings(given).feeds_akto else None
        self._together: dict[tuple[Instance | None, str | None], Instance | None] = {}
        if previous is None or previous.scopes.not_understood != self.scopes.not_understood:
            for line in self.scopes.not_understood:
                log.warning("moesif: %s; events have no route or service until this is fixed", line)

    def resolve(self, request: RoutableRequest, options: Instance) -> Resolution:
        """The instance for a request; `options` if the configuration has none at all."""
        headers = flatten(request.fields)
        match, consumer = self._match(request, headers, options)
        route, service = (match.route, match.service) if match is not None else (None, None)
        on = route, service, consumer
        instance: Instance | None = options
        if self.instances or self.has_instances:
            plugin, _ = self.scopes.instances.select(MOESIF, *on)
            if plugin is None or plugin.id != OPTIONS_ID:
                instance = self.instances.get(plugin.id) if plugin is not None else None
        return Resolution(instance if self.alone is None else self._with_akto(instance, on), names(match))

    def _with_akto(self, instance: Instance | None, on: On) -> Instance | None:
        """The instance with this request's Akto settings; each combination is made once."""
        plugin_id: str | None = OPTIONS_ID
        if self.akto or self.has_akto:
            plugin, _ = self.scopes.instances.select(AKTO, *on)
            if plugin is not None:
                plugin_id = plugin.id
            elif self.has_akto:
                plugin_id = None
        key = instance, plugin_id
        if key not in self._together:
            base = instance or self.alone
            assert base is not None
            made = base
            if plugin_id != OPTIONS_ID:
                made = base.with_akto(OFF if plugin_id is None else self.akto[plugin_id])
            self._together[key] = made if made.settings.has_receiver else None
        return self._together[key]

    def _match(
        self, request: RoutableRequest, headers: dict[str, str], options: Instance
    ) -> tuple[Match | None, Consumer | None]:
        policy = options.policy
        trusted = policy.trusts_all or is_trusted(request.peer, policy.trusted)
        where = kong_headers.position(policy.position, headers, {}, trusted=trusted)
        scheme, host, path = request.scheme, headers.get("host"), text(request.target)
        if request.authority:
            host = text(request.authority)
        if where is kong_headers.Position.BEHIND and trusted:
            scheme, host, path = kong_headers.public_parts(headers, scheme, host or "", path)
        address = client_address(headers, request.peer, trusted=trusted)
        values = by_name(request.fields)
        match = self.scopes.router.match(text(request.method), path, host, values, scheme, request.sni, address)
        return match, self._consumer(headers, where, trusted=trusted)

    def _consumer(self, headers: dict[str, str], where: kong_headers.Position, *, trusted: bool) -> Consumer | None:
        for side in kong_headers.believed_consumers(where, headers, {}, trusted=trusted):
            if side.get("x-anonymous-consumer", "").lower() == "true":
                return None
            return self.scopes.config.find_consumer(
                side.get("x-consumer-id"), side.get("x-consumer-username"), side.get("x-consumer-custom-id")
            )
        return None

    def describe(self) -> dict[str, Any]:
        """The configuration for status pages, without any `config`, which may hold secrets.

        `admin_api` says whether an instance was `created` or `changed` through the Admin API.
        """
        config = self.scopes.config
        has_expressions = any(route.expression is not None for route in config.routes)
        return {
            "services": len(config.services),
            "routes": len(config.routes),
            "consumers": len(config.consumers),
            "router_flavor": "expressions" if has_expressions else config.flavor,
            "instances": [_shown(plugin) for plugin in config.plugins if plugin.name in CAPTURING],
        }


def is_created(plugin: Plugin) -> bool:
    """Whether it was added through the Admin API, and is not in Kong's configuration."""
    return isinstance(plugin, LivePlugin) and plugin.created


def instance_values(plugin: Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an enabled instance: more specific settings override general ones; null is ignored."""
    live = plugin.changes if isinstance(plugin, LivePlugin) else {}
    prefix = prefix_of(plugin.name)
    own = {name: value for name, value in plugin.config.items() if value is not None}
    return {**prefixed(prefix, own), **given, **prefixed(prefix, live), "enabled": True}


def prefix_of(plugin_name: str) -> str:
    """The prefix of our parameters' names compared with a plugin's."""
    return AKTO_PREFIX if plugin_name == AKTO else ""


def overridden(config: KongConfig, given: Mapping[str, Any]) -> list[str]:
    """Parameters of enabled instances in Kong's configuration that `given` overrides; live changes override both."""
    names: set[str] = set()
    for plugin in config.plugins:
        if plugin.name in CAPTURING and plugin.enabled:
            prefix = prefix_of(plugin.name)
            live = plugin.changes if isinstance(plugin, LivePlugin) else {}
            own = {name: value for name, value in plugin.config.items() if value is not None and name not in live}
            names |= {
                name for name, value in prefixed(prefix, own).items() if str(given.get(name, value)) != str(value)
            }
    return sorted(names)


def prefixed(prefix: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in config.items()}


def parse_instance(plugin: Plugin, given: Mapping[str, Any]) -> Settings:
    """The settings of an enabled instance; `given` as for `Resolver`. Raises `SettingsError`."""
    try:
        settings = parse_settings(instance_values(plugin, given))
    except SettingsError as error:
        raise SettingsError(_as_named_there(str(error), prefix_of(plugin.name))) from None
    if (missing := missing_receiver(plugin.name, settings)) is not None:
        raise SettingsError(f"{missing} is missing")
    if plugin.id != OPTIONS_ID:
        _refuse_proxy_wide(plugin, settings, parse_settings(given))
    return settings


def _refuse_proxy_wide(plugin: Plugin, settings: Settings, options: Settings) -> None:
    """Refuse parameters that an instance cannot set for itself; they would have no effect, unnoticed."""
    if "enabled" in plugin.config:
        raise SettingsError("enabled: has no effect in config: set it next to config")
    for name in sorted(PROXY_WIDE):
        if getattr(settings, name) != getattr(options, name):
            raise SettingsError(f"{name}: applies to the whole proxy: set it as an option instead")


def missing_receiver(plugin_name: str, settings: Settings) -> str | None:
    """The parameter that a plugin lacks to know where to send its events; None if it has one."""
    if plugin_name == AKTO:
        return None if settings.feeds_akto else "service_url"
    return None if settings.keeps_events else "application_id"


def _as_named_there(errors: str, prefix: str) -> str:
    """Rename parameters in errors as the plugin names them, such as `akto_timeout` to `timeout`."""
    return re.sub(rf"(^|; |did you mean ){prefix}", r"\1", errors) if prefix else errors


def _options_as_plugin(given: Mapping[str, Any]) -> Plugin:
    enabled = parse_settings(given).enabled
    return Plugin(id=OPTIONS_ID, name=MOESIF, instance_name=PLUGIN_NAME, enabled=enabled)


def _scopes(config: KongConfig, options: tuple[Plugin, ...], given: Mapping[str, Any]) -> Scopes:
    said = parse_settings(given).kong_router_flavor
    flavor = config.flavor if said == "auto" else said
    try:
        scopes = Scopes(replace(config, plugins=(*config.plugins, *options), flavor=flavor))
    except ScopeConflict as error:
        raise SettingsError(f"{_source(given)}: {error}") from error
    if scopes.not_understood and depend_on_routes(config.plugins):
        raise SettingsError(f"{_source(given)}: {scopes.not_understood[0]}")
    return scopes


def _source(given: Mapping[str, Any]) -> str:
    """The parameter that sets the source of Kong's configuration."""
    return "kong_admin_url" if given.get("kong_admin_url") and not given.get("kong_config") else "kong_config"


def _compile(plugin: Plugin, given: Mapping[str, Any], previous: Instance | None) -> Instance:
    with _telling(plugin, given) as name:
        return Instance.compile(parse_instance(plugin, given), previous=previous, name=name)


def _parsed(plugin: Plugin, given: Mapping[str, Any]) -> Settings:
    with _telling(plugin, given):
        return parse_instance(plugin, given)


@contextmanager
def _telling(plugin: Plugin, given: Mapping[str, Any]) -> Iterator[str]:
    """Add the plugin's name to errors."""
    name = plugin.instance_name or plugin.id
    try:
        yield name
    except SettingsError as error:
        raise SettingsError(f"{_source(given)}: plugin {name!r}: {error}") from error


def _alone(given: Mapping[str, Any], previous: Resolver | None) -> Instance:
    """The instance of the options without a receiver of events."""
    settings = parse_settings({name: value for name, value in given.items() if name not in EVENT_RECEIVERS})
    return Instance.compile(settings, previous=previous.alone if previous is not None else None, name=AKTO)


def _shown(plugin: Plugin) -> dict[str, Any]:
    return {
        "id": plugin.id,
        "name": plugin.name,
        "instance_name": plugin.instance_name,
        "enabled": plugin.enabled,
        "admin_api": plugin.entered if isinstance(plugin, LivePlugin) else None,
        "service": plugin.service_id,
        "route": plugin.route_id,
        "consumer": plugin.consumer_id,
        **({} if plugin.consumer_group_id is None else {"consumer_group": plugin.consumer_group_id}),
    }


def names(match: Match | None) -> dict[str, object]:
    """`metadata.kong` from the configuration: Kong's names for the service and the route."""
    if match is None:
        return {}
    known: dict[str, object] = {}
    if match.service is not None:
        known["service_name"] = match.service.name or match.service.id
    known["route_name"] = match.route.name or match.route.id
    if match.route.hosts:
        known["route_hosts"] = list(match.route.hosts)
    return known

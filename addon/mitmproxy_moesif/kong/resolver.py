"""Kong's own configuration as ours: which instance a request is for, and what Kong calls its service and route.

Every `plugins` entry named `moesif` is one instance. Its `config` is validated like the options; what was given as an
option or in the environment overrides the same field of every instance, and what the Admin API says of an instance
overrides both. Where the configuration has no instance at all, the options are the global one, beside those that the
Admin API added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import Settings, SettingsError, parse_settings
from mitmproxy_moesif.event import kong_headers as kong_headers
from mitmproxy_moesif.event.address import client_address, is_trusted
from mitmproxy_moesif.event.exchange import RoutableRequest
from mitmproxy_moesif.event.headers import by_name, flatten, text
from mitmproxy_moesif.kong.entities import Consumer, KongConfig, Plugin
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME
from mitmproxy_moesif.kong.overlay import LivePlugin
from mitmproxy_moesif.kong.router import Match
from mitmproxy_moesif.kong.scopes import AKTO, MOESIF, ScopeConflict, Scopes, depend_on_routes
from mitmproxy_moesif.log import log


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where a request belongs: its instance (None: it is not captured), and `metadata.kong` as far as it is known."""

    instance: Instance | None
    kong: dict[str, object]


class Resolver:
    """A Kong configuration made ready: its router, and its instances compiled by plugin id."""

    def __init__(self, config: KongConfig, given: Mapping[str, Any], previous: Resolver | None = None) -> None:
        """`given` are the options and the environment. Raises `SettingsError` with one line.

        `previous` saves compiling again what has not changed: the router of the same configuration, the same instances.
        """
        ours = [plugin for plugin in config.plugins if plugin.name == MOESIF]
        self.has_instances = any(not is_created(plugin) for plugin in ours)
        known = previous.instances if previous is not None else {}
        self.instances: dict[str, Instance] = {p.id: _compile(p, given, known.get(p.id)) for p in ours if p.enabled}
        self.config, self.options = config, () if self.has_instances else (_options_as_plugin(given),)
        if previous is not None and previous.config is config and previous.options == self.options:
            self.scopes: Scopes = previous.scopes
        else:
            self.scopes = _scopes(config, self.options)
        self.has_akto = self.scopes.instances.has(AKTO)
        if config.not_understood and (previous is None or previous.config.not_understood != config.not_understood):
            for line in config.not_understood:
                log.warning("moesif: %s; no event is given a route or service until it is", line)

    def resolve(self, request: RoutableRequest, options: Instance) -> Resolution:
        """The instance for a request. Where the configuration has none at all, the options are one."""
        headers = flatten(request.fields)
        match, consumer = self._match(request, headers, options)
        instance: Instance | None = options
        if self.instances or self.has_instances:
            route, service = (match.route, match.service) if match is not None else (None, None)
            plugin, _ = self.scopes.instances.select(MOESIF, route, service, consumer)
            if plugin is None or plugin.id != OPTIONS_ID:
                instance = self.instances.get(plugin.id) if plugin is not None else None
        return Resolution(instance, names(match))

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
        """For status pages; no `config`, which may hold secrets.

        `admin_api` tells of an instance whether it was `created` or `changed` there.
        """
        plugins = [plugin for plugin in self.scopes.config.plugins if plugin.name in (MOESIF, AKTO)]
        return {
            "services": len(self.scopes.config.services),
            "routes": len(self.scopes.config.routes),
            "consumers": len(self.scopes.config.consumers),
            "instances": [_shown(plugin) for plugin in plugins],
        }


def is_created(plugin: Plugin) -> bool:
    """Whether it is not from Kong's configuration but was added through the Admin API."""
    return isinstance(plugin, LivePlugin) and plugin.created


def instance_values(plugin: Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an enabled instance: more specific settings override general ones."""
    live = plugin.changes if isinstance(plugin, LivePlugin) else {}
    return {**plugin.config, **given, **live, "enabled": True}


def parse_instance(plugin: Plugin, given: Mapping[str, Any]) -> Settings:
    """What an enabled instance is set to; `given` as for `Resolver`. Raises `SettingsError`."""
    settings = parse_settings(instance_values(plugin, given))
    if not settings.keeps_events:
        raise SettingsError("application_id is missing")
    return settings


def _options_as_plugin(given: Mapping[str, Any]) -> Plugin:
    enabled = parse_settings(given).enabled
    return Plugin(id=OPTIONS_ID, name=MOESIF, instance_name=PLUGIN_NAME, enabled=enabled)


def _scopes(config: KongConfig, options: tuple[Plugin, ...]) -> Scopes:
    if config.not_understood and depend_on_routes(config.plugins):
        raise SettingsError(f"kong_config: {config.not_understood[0]}")
    try:
        return Scopes(replace(config, plugins=(*config.plugins, *options)))
    except ScopeConflict as error:
        raise SettingsError(f"kong_config: {error}") from error


def _compile(plugin: Plugin, given: Mapping[str, Any], previous: Instance | None) -> Instance:
    name = plugin.instance_name or plugin.id
    try:
        return Instance.compile(parse_instance(plugin, given), previous=previous, name=name)
    except SettingsError as error:
        raise SettingsError(f"kong_config: plugin {name!r}: {error}") from error


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
    """`metadata.kong` from the configuration: what Kong calls the service and the route."""
    if match is None:
        return {}
    known: dict[str, object] = {}
    if match.service is not None:
        known["service_name"] = match.service.name or match.service.id
    known["route_name"] = match.route.name or match.route.id
    if match.route.hosts:
        known["route_hosts"] = list(match.route.hosts)
    return known

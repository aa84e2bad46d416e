"""Chooses the plugin instance that applies to a request: Kong's scopes and their precedence.

An instance is a plugin entry of a Kong configuration that configures one of our receivers. It is for a service, route,
consumer or consumer group, for a combination of them, or global. Of all instances that match a request, only the most
specific one is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from mitmproxy_moesif.kong.entities import HTTP_PROTOCOLS, Consumer, KongConfig, Plugin, Route, Service
from mitmproxy_moesif.kong.errors import PLUGIN_NAME, scope_key, unique_violation
from mitmproxy_moesif.kong.expression_router import ExpressionRouter

MOESIF = PLUGIN_NAME
AKTO = "akto-api-discovery"
CAPTURING = frozenset((MOESIF, AKTO))
"""Names of the plugins whose entries are instances of ours."""

type Scope = tuple[str, frozenset[tuple[str, str]]]
"""Plugin name, and the kind and id of each entity that the plugin is for."""

PRECEDENCE = (
    ("route", "service", "consumer"),
    ("route", "service", "consumer_group"),
    ("route", "consumer"),
    ("service", "consumer"),
    ("route", "consumer_group"),
    ("service", "consumer_group"),
    ("route", "service"),
    ("consumer",),
    ("consumer_group",),
    ("route",),
    ("service",),
    (),
)
"""Scopes, most specific first. Of a consumer's groups, the first by name that has an instance counts."""


class ScopeConflict(ValueError):  # noqa: N818 -- Kong calls it a violation, its Admin API a conflict (409)
    """Two enabled instances have the same scope. `instance` is the second; the text is Kong's unique violation."""

    def __init__(self, instance: Plugin) -> None:
        self.instance = instance
        self.key = scope_key(
            instance.name, instance.service_id, instance.route_id, instance.consumer_id, instance.consumer_group_id
        )
        super().__init__(unique_violation(self.key))


class InstanceTable:
    """The instances by scope. Raises `ScopeConflict` if two enabled ones have the same scope.

    Disabled instances, and those for protocols other than HTTP, are kept for display but never apply.
    """

    def __init__(self, instances: Iterable[Plugin]) -> None:
        self.instances = tuple(instances)
        self._by_scope: dict[Scope, Plugin] = {}
        for instance in self.instances:
            if not _applies_at_all(instance):
                continue
            scope = (instance.name, frozenset(_targets(instance)))
            if scope in self._by_scope:
                raise ScopeConflict(instance)
            self._by_scope[scope] = instance
        used = {frozenset(kind for kind, _ in targets) for _, targets in self._by_scope}
        self._precedence = tuple(kinds for kinds in PRECEDENCE if frozenset(kinds) in used)

    def select(
        self, name: str, route: Route | None = None, service: Service | None = None, consumer: Consumer | None = None
    ) -> tuple[Plugin | None, str]:
        """The instance of plugin `name` for a request on this route, service and consumer; and why, in words."""
        fitting = list(self._fitting(name, (route, service, consumer)))
        if not fitting:
            return None, self._why_none(name, route, service, consumer)
        (instance, scope), *others = fitting
        less = ", ".join(other for _, other in others)
        return instance, f"{scope} (more specific than: {less})" if less else scope

    def _fitting(
        self, name: str, on: tuple[Route | None, Service | None, Consumer | None]
    ) -> Iterator[tuple[Plugin, str]]:
        route, service, consumer = on
        shown = {"route": route, "service": service, "consumer": consumer}
        ids = {kind: [entity.id] for kind, entity in shown.items() if entity is not None}
        if consumer is not None:
            ids["consumer_group"] = list(consumer.group_ids)
        for kinds in self._precedence:
            for of in product(*(ids.get(kind, ()) for kind in kinds)):
                instance = self._by_scope.get((name, frozenset(zip(kinds, of, strict=True))))
                if instance is not None:
                    parts = (_part(kind, shown.get(kind), id_) for kind, id_ in zip(kinds, of, strict=True))
                    yield instance, " + ".join(parts) or "global"

    def _why_none(self, name: str, route: Route | None, service: Service | None, consumer: Consumer | None) -> str:
        existing = [instance for instance in self.instances if instance.name == name]
        if not existing:
            return f'no "{name}" plugin is configured'
        disabled = sum(not _applies_at_all(instance) for instance in existing)
        on = ", ".join((
            _described(route) if route else "no route",
            _described(service) if service else "no service",
            _described(consumer) if consumer else "no consumer",
        ))  # fmt: skip
        return f'none of the {len(existing)} "{name}" instances applies to this request ({on}); {disabled} disabled'


def _applies_at_all(instance: Plugin) -> bool:
    return instance.enabled and (instance.protocols is None or not HTTP_PROTOCOLS.isdisjoint(instance.protocols))


def _targets(instance: Plugin) -> Iterator[tuple[str, str]]:
    for kind in ("route", "service", "consumer", "consumer_group"):
        id_ = getattr(instance, f"{kind}_id")
        if id_ is not None:
            yield kind, id_


def depend_on_routes(instances: Iterable[Plugin]) -> bool:
    """Whether any of them depends on a request's route."""
    return any(
        instance.name in CAPTURING and _applies_at_all(instance) and (instance.route_id or instance.service_id)
        for instance in instances
    )


def _part(kind: str, entity: Route | Service | Consumer | None, id_: str) -> str:
    return _described(entity) if entity is not None else f'{kind.replace("_", " ")} "{id_}"'


def _described(entity: Route | Service | Consumer) -> str:
    name = entity.username or entity.custom_id if isinstance(entity, Consumer) else entity.name
    return f'{type(entity).__name__.lower()} "{name or entity.id}"'


class Scopes:
    """A Kong configuration ready for requests: its router and its instances. Raises `ScopeConflict`.

    If any route is not understood, no request is assigned a route, since it might be that one. `not_understood` has a
    line for each.
    """

    def __init__(self, config: KongConfig) -> None:
        self.config = config
        router = ExpressionRouter(() if config.not_understood else config.routes, config.flavor)
        self.not_understood = (*config.not_understood, *router.not_understood)
        self.router = ExpressionRouter(()) if router.not_understood else router
        self.instances = InstanceTable(plugin for plugin in config.plugins if plugin.name in CAPTURING)

    def scope(self, instance: Plugin) -> str:
        """An instance's scope, in the same words as the reasons from `explain`."""
        entities: Iterable[Route | Service | Consumer] = (
            *self.config.routes,
            *self.config.services,
            *self.config.consumers,
        )
        known = {entity.id: entity for entity in entities}
        return " + ".join(_part(kind, known.get(id_), id_) for kind, id_ in _targets(instance)) or "global"

    def explain(
        self,
        method: str,
        host: str | None,
        path: str,
        *,
        scheme: str = "http",
        consumer: Consumer | None = None,
        name: str = MOESIF,
    ) -> dict[str, Any]:
        """A request's route, service and instance, and the reason, as JSON values for status pages.

        Without any `config`, which may hold secrets.
        """
        match = self.router.match(method, path, host, {}, scheme)
        route = match.route if match else None
        service = match.service if match else None
        instance, why = self.instances.select(name, route, service, consumer)
        return {
            "route": _shown(route),
            "service": _shown(service),
            "consumer": _shown(consumer),
            "instance": None if instance is None else {"id": instance.id, "instance_name": instance.instance_name},
            "why": why,
            "matched_path": match.path if match else None,
            "upstream_path": match.upstream_path if match else None,
            "turned_away": match.turned_away if match else None,
        }


def _shown(entity: Route | Service | Consumer | None) -> dict[str, Any] | None:
    if entity is None:
        return None
    if isinstance(entity, Consumer):
        return {"id": entity.id, "username": entity.username, "custom_id": entity.custom_id}
    return {"id": entity.id, "name": entity.name}

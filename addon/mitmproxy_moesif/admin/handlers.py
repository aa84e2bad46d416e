"""The listener's paths.

Our own are `GET /status` (with `?method=&host=&path=`: the instance that would capture such a request), `GET /metrics`,
`GET /health`, `GET /ping`, those of recent exchanges (`exchanges.py`), and `GET /openapi.json`, which describes them.
All others are Kong's, with its formats, as far as listed in `admin_app`: plugins can be changed, other entities only
read. Every path supports OPTIONS, and HEAD wherever it supports GET. Errors are `{"message": ...}`, like Kong's.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tornado.web import Application

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.entities import NONE_HERE, plugin_schema, schema, shown
from mitmproxy_moesif.admin.exchanges import ExchangeHandler, ExchangesHandler, StatsHandler, StreamHandler
from mitmproxy_moesif.admin.handling import AdminHandler, Parts, ReadHandler
from mitmproxy_moesif.admin.metrics import exposition
from mitmproxy_moesif.admin.openapi import document
from mitmproxy_moesif.admin.source import AdminSource, NotFound, is_uuid
from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.errors import PLUGIN_NAME, reference
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import JsonHandler

KONG_VERSION = "3.9.3"
"""The version of Kong that is emulated: decK's requests, and its form of paths, depend on it."""


class _StatusHandler(ReadHandler):
    def get(self) -> None:
        content: dict[str, Any] = {**self.source.status()}
        query = {name: self.get_query_argument(name, None) for name in ("method", "host", "path")}
        if any(value is not None for value in query.values()):
            method, path = query["method"] or "GET", query["path"] or "/"
            content["request"] = self.source.explain(method, query["host"], path)
        self.answer(200, content)


class _MetricsHandler(ReadHandler):
    def get(self) -> None:
        self.answer_text(*exposition(self.source.status(), self.request.headers.get("Accept", "")))


class _HealthHandler(ReadHandler):
    def get(self) -> None:
        self.answer_health(self.source.trouble())


class _PingHandler(ReadHandler):
    def get(self) -> None:
        self.answer_text("PONG")


class _OpenApiHandler(ReadHandler):
    def get(self) -> None:
        JsonHandler.answer(self, 200, document())


class _OfPlugins(ReadHandler):
    """The instances, or those of one service, route or consumer if the path begins with its kind and name."""

    def scope(self, *of: str) -> dict[str, Any]:
        """The scope that the instances must have. Raises `NotFound`."""
        pairs = zip(of[::2], of[1::2], strict=True)
        return {kind.removesuffix("s"): reference(self.source.find_entity(kind, name)) for kind, name in pairs}

    def plugins(self, *of: str) -> list[Mapping[str, Any]]:
        scope = self.scope(*of)
        return [plugin for plugin in self.source.plugins() if all(plugin[field] == scope[field] for field in scope)]


class _PluginsHandler(_OfPlugins):
    def get(self, *of: str) -> None:
        self.answer_page(self.plugins(*of))

    def post(self, *of: str) -> None:
        scope = self.scope(*of)
        self.answer(201, self.source.add_plugin({**self.fields(), **scope}))


class _PluginHandler(_OfPlugins):
    """One instance, by id or name: the last part of the path."""

    def get(self, *path: str) -> None:
        self.answer(200, self._find(*path))

    def patch(self, *path: str) -> None:
        plugin_id = str(self._find(*path)["id"])
        self.answer(200, self.source.patch_plugin(plugin_id, self.fields()))

    def put(self, *path: str) -> None:
        """Replace an instance, or create it if it does not exist."""
        given = {**self.fields(), **self.scope(*path[:-1])}
        try:
            plugin_id = str(self._find(*path)["id"])
        except NotFound:
            key = "id" if is_uuid(path[-1]) else "instance_name"
            self.answer(200, self.source.add_plugin({**given, key: path[-1]}))
        else:
            self.answer(200, self.source.replace_plugin(plugin_id, given, self.left_alone))

    def delete(self, *path: str) -> None:
        """Delete an instance. Like Kong, 204 even if it does not exist, except below a service, route or consumer."""
        try:
            self.source.remove_plugin(str(self._find(*path)["id"]))
        except NotFound:
            if len(path) > 1:
                raise
        self.set_status(204)
        self.finish()

    def _find(self, *path: str) -> Mapping[str, Any]:
        """The instance with this id, else with this instance name. Raises `NotFound`."""
        plugins = self.plugins(*path[:-1])
        for key in ("id", "instance_name"):
            for plugin in plugins:
                if plugin.get(key) == path[-1]:
                    return plugin
        raise NotFound(path[-1])


class _EntitiesHandler(ReadHandler):
    """The services, routes or consumers."""

    def get(self, kind: str) -> None:
        self.answer_entities(self.source.list_entities(kind))


class _RoutesOfServiceHandler(ReadHandler):
    def get(self, name: str) -> None:
        service_id = self.source.find_entity("services", name)
        routes = [route for route in self.source.list_entities("routes") if isinstance(route, Route)]
        self.answer_entities([route for route in routes if route.service and route.service.id == service_id])


class _EntityHandler(ReadHandler):
    def get(self, kind: str, name: str) -> None:
        entity_id = self.source.find_entity(kind, name)
        (found,) = (entity for entity in self.source.list_entities(kind) if entity.id == entity_id)
        self.answer(200, shown(found, self.began))


class _NoneHandler(ReadHandler):
    """A kind of Kong's entities that is not supported: an empty list."""

    def get(self) -> None:
        self.answer_page([])


class _RootHandler(ReadHandler):
    """The first request of decK and Kong Manager: which version of Kong this is."""

    def get(self) -> None:
        self.answer(
            200,
            {
                "tagline": "mitmproxy-moesif answers as the Admin API of Kong does",
                "version": KONG_VERSION,
                "edition": "community",
                "hostname": socket.gethostname(),
                "node_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname())),
                "mitmproxy_moesif": __version__,
                "plugins": {
                    "available_on_server": {PLUGIN_NAME: {"version": __version__}},
                    "enabled_in_cluster": sorted({str(plugin["name"]) for plugin in self.source.plugins()}),
                },
                "configuration": {
                    "database": "off",
                    "router_flavor": self.source.status().get("kong", {}).get("router_flavor", "traditional"),
                    "plugins": [PLUGIN_NAME],
                    "loaded_plugins": {PLUGIN_NAME: True},
                },
            },
        )


class _EnabledHandler(ReadHandler):
    def get(self) -> None:
        self.answer(200, {"enabled_plugins": [PLUGIN_NAME]})


class _SchemaHandler(ReadHandler):
    """Schemas; not redacted, since they have names of secret parameters but no values."""

    def get(self, *path: str) -> None:
        *of_plugin, name = path
        found = (plugin_schema() if name == PLUGIN_NAME else None) if of_plugin else schema(name)
        if found is None:
            self.refuse(404, f"No {'plugin' if of_plugin else 'entity'} named '{name}'")
        else:
            JsonHandler.answer(self, 200, found)


class _NotFoundHandler(AdminHandler):
    def get(self, *_path: str) -> None:
        raise NotFound

    head = post = put = patch = delete = options = get


def admin_app(source: AdminSource, gate: Gate) -> Application:
    """The paths as a Tornado application; a trailing slash is optional."""
    arguments = {"parts": Parts(source)}
    paths: Sequence[tuple[str, type[AdminHandler]]] = (
        ("/status", _StatusHandler),
        ("/metrics", _MetricsHandler),
        ("/health", _HealthHandler),
        ("/ping", _PingHandler),
        ("/openapi.json", _OpenApiHandler),
        ("/exchanges", ExchangesHandler),
        ("/exchanges/stream", StreamHandler),
        ("/exchanges/([^/]+)", ExchangeHandler),
        ("/stats", StatsHandler),
        ("", _RootHandler),
        ("/plugins", _PluginsHandler),
        ("/plugins/enabled", _EnabledHandler),
        ("/plugins/([^/]+)", _PluginHandler),
        ("/(services|routes|consumers)", _EntitiesHandler),
        ("/(services|routes|consumers)/([^/]+)", _EntityHandler),
        ("/(services|routes|consumers)/([^/]+)/plugins", _PluginsHandler),
        ("/(services|routes|consumers)/([^/]+)/plugins/([^/]+)", _PluginHandler),
        ("/services/([^/]+)/routes", _RoutesOfServiceHandler),
        ("/schemas/([^/]+)", _SchemaHandler),
        ("/schemas/(plugins)/([^/]+)", _SchemaHandler),
        *((f"/{kind}", _NoneHandler) for kind in NONE_HERE),
    )
    return Application(
        [(f"{path}/?", handler, arguments) for path, handler in paths],
        default_handler_class=_NotFoundHandler,
        default_handler_args=arguments,
        log_function=lambda _handler: None,
        gate=gate,
        streams=set(),
    )

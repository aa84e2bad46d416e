"""The listener's paths.

`GET /status` (with `?method=&host=&path=`: which instance such a request would be captured by), `GET /metrics`,
`GET /health`, `GET /ping`; in Kong's forms `GET /plugins`, `POST /plugins`, and GET, PATCH and DELETE on
`/plugins/{id or instance name}`; `GET` and `POST` on `/services/{id or name}/plugins`, the same for routes, and for
consumers by id or username. HEAD wherever GET is. Errors are `{"message": ...}`, as Kong's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tornado.web import Application, HTTPError

from mitmproxy_moesif.admin.forms import BodyError, parse_body
from mitmproxy_moesif.admin.listing import InvalidPage, page
from mitmproxy_moesif.admin.metrics import exposition
from mitmproxy_moesif.admin.redact import redacted, secret_values, without_shown
from mitmproxy_moesif.admin.source import (
    AdminSource,
    ForeignKeyViolation,
    NotFound,
    NotKept,
    SchemaViolation,
    UniqueViolation,
    Unsupported,
)
from mitmproxy_moesif.kong.errors import reference
from mitmproxy_moesif.log import RateLimitedLog, describe
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import MESSAGES, GatedHandler


@dataclass(frozen=True, slots=True)
class Parts:
    """What all handlers share."""

    source: AdminSource
    gate: Gate
    limited: RateLimitedLog = field(default_factory=RateLimitedLog)


class _AdminHandler(GatedHandler):
    def initialize(self, parts: Parts) -> None:
        self.source = parts.source
        self._limited = parts.limited
        self._secrets: set[str] = set()

    def fields(self) -> dict[str, Any]:
        """What the body says, without secrets that are sent back as they were shown. Raises `BodyError`."""
        given = parse_body(self.body(), self.request.headers.get("Content-Type", ""))
        self._secrets = secret_values(given)
        return without_shown(given)

    def answer(self, status: int, content: Mapping[str, Any]) -> None:
        super().answer(status, redacted(content))

    def answer_page(self, plugins: Sequence[Mapping[str, Any]]) -> None:
        query = {name: self.get_query_argument(name, None) for name in ("size", "offset", "tags")}
        self.answer(200, page(plugins, self.request.path, **query))

    def answer_text(self, text: str | bytes, content_type: str) -> None:
        self.set_header("Content-Type", content_type)
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An exception as Kong would tell of it; what it says holds none of the secrets that the request gave."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        told = _told(error)
        status = told[0] if told is not None else status_code
        if status == 405:
            self.set_header("Allow", ", ".join(sorted(self._allowed())))
        if told is not None:
            self.answer(status, redacted(told[1], self._secrets))
        else:
            super().write_error(status)

    def log_exception(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Only what nobody expected, and of that no content."""
        if error is not None and _told(error) is None and not isinstance(error, HTTPError):
            self._limited.error("admin", "moesif: a fault in the admin listener: %s", describe(error))

    def _allowed(self) -> list[str]:
        ours = (cls for cls in type(self).__mro__ if issubclass(cls, _AdminHandler))
        return [name.upper() for cls in ours for name in vars(cls) if name.upper() in self.SUPPORTED_METHODS]


def _told(error: BaseException | None) -> tuple[int, dict[str, Any]] | None:
    """Status and body for an error that Kong has a form for."""
    match error:
        case NotFound():
            return 404, {"message": MESSAGES[404]}
        case SchemaViolation():
            return 400, _violation(2, "schema violation", str(error), error.fields)
        case UniqueViolation():
            return 409, _violation(5, "unique constraint violation", str(error), error.fields)
        case ForeignKeyViolation():
            return 400, _violation(error.code, error.name, str(error), error.fields)
        case InvalidPage():
            return 400, {"code": error.code, "name": error.name, "message": str(error)}
        case Unsupported():
            return 405, {"code": 12, "name": "operation unsupported", "message": str(error)}
        case BodyError():
            return error.status, {"message": str(error)}
        case NotKept():
            return 500, {"message": str(error)}
    return None


def _violation(code: int, name: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": code, "name": name, "message": message, "fields": fields}


class _StatusHandler(_AdminHandler):
    def get(self) -> None:
        content: dict[str, Any] = {**self.source.status()}
        query = {name: self.get_query_argument(name, None) for name in ("method", "host", "path")}
        if any(value is not None for value in query.values()):
            method, path = query["method"] or "GET", query["path"] or "/"
            content["request"] = self.source.explain(method, query["host"], path)
        self.answer(200, content)

    head = get


class _MetricsHandler(_AdminHandler):
    def get(self) -> None:
        self.answer_text(*exposition(self.source.status(), self.request.headers.get("Accept", "")))

    head = get


class _HealthHandler(_AdminHandler):
    def get(self) -> None:
        well, reason = self.source.health()
        if well:
            self.answer(200, {"status": "ok"})
        else:
            self.answer(503, {"status": "unhealthy", "reason": reason})

    head = get


class _PingHandler(_AdminHandler):
    def get(self) -> None:
        self.answer_text("PONG", "text/plain; charset=utf-8")

    head = get


class _PluginsHandler(_AdminHandler):
    def get(self) -> None:
        self.answer_page(self.source.plugins())

    head = get

    def post(self) -> None:
        self.answer(201, self.source.add_plugin(self.fields()))


class _ScopedPluginsHandler(_AdminHandler):
    """Those for one service, route or consumer."""

    def get(self, kind: str, name: str) -> None:
        wanted = reference(self.source.find_entity(kind, name))
        field = kind.removesuffix("s")
        self.answer_page([plugin for plugin in self.source.plugins() if plugin[field] == wanted])

    head = get

    def post(self, kind: str, name: str) -> None:
        scope = {kind.removesuffix("s"): reference(self.source.find_entity(kind, name))}
        self.answer(201, self.source.add_plugin({**self.fields(), **scope}))


class _PluginHandler(_AdminHandler):
    def get(self, name: str) -> None:
        self.answer(200, self._find(name))

    head = get

    def patch(self, name: str) -> None:
        plugin_id = str(self._find(name)["id"])
        self.answer(200, self.source.patch_plugin(plugin_id, self.fields()))

    def delete(self, name: str) -> None:
        """Kong answers so too where there was nothing to delete."""
        with suppress(NotFound):
            self.source.remove_plugin(str(self._find(name)["id"]))
        self.set_status(204)
        self.finish()

    def _find(self, name: str) -> Mapping[str, Any]:
        """By id, else by instance name. Raises `NotFound`."""
        plugins = self.source.plugins()
        for key in ("id", "instance_name"):
            for plugin in plugins:
                if plugin.get(key) == name:
                    return plugin
        raise NotFound(name)


class _NotFoundHandler(_AdminHandler):
    def get(self) -> None:
        raise NotFound

    head = post = put = patch = delete = options = get


def admin_app(parts: Parts) -> Application:
    """The paths as a Tornado application; a slash at the end makes no difference."""
    arguments = {"parts": parts}
    return Application(
        [
            (r"/status/?", _StatusHandler, arguments),
            (r"/metrics/?", _MetricsHandler, arguments),
            (r"/health/?", _HealthHandler, arguments),
            (r"/ping/?", _PingHandler, arguments),
            (r"/plugins/?", _PluginsHandler, arguments),
            (r"/plugins/([^/]+)/?", _PluginHandler, arguments),
            (r"/(services|routes|consumers)/([^/]+)/plugins/?", _ScopedPluginsHandler, arguments),
        ],
        default_handler_class=_NotFoundHandler,
        default_handler_args=arguments,
        log_function=lambda _handler: None,
        gate=parts.gate,
    )

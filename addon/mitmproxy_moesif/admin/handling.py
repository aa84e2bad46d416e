"""Shared by the listener's handlers: their source, redacted responses, and errors in Kong's format."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from types import TracebackType
from typing import Any

from tornado.web import HTTPError

from mitmproxy_moesif.admin.entities import shown
from mitmproxy_moesif.admin.forms import BodyError, parse_body
from mitmproxy_moesif.admin.listing import SHOWN_ALREADY, Form, InvalidPage, page
from mitmproxy_moesif.admin.redact import reasons_without, redacted, secret_values, shown_names, without_shown
from mitmproxy_moesif.admin.source import (
    AdminSource,
    ForeignKeyViolation,
    NotFound,
    NotKept,
    SchemaViolation,
    UniqueViolation,
    Unsupported,
)
from mitmproxy_moesif.kong.entities import Entity
from mitmproxy_moesif.log import RateLimitedLog, describe
from mitmproxy_moesif.web.handlers import MESSAGES, GatedHandler


@dataclass(frozen=True, slots=True)
class Parts:
    """Objects that all handlers share."""

    source: AdminSource
    limited: RateLimitedLog = field(default_factory=RateLimitedLog)
    began: int = field(default_factory=lambda: int(time.time()))


class AdminHandler(GatedHandler):
    def initialize(self, parts: Parts) -> None:
        self.source = parts.source
        self._limited = parts.limited
        self.began = parts.began
        self._secrets: set[str] = set()
        self.left_alone: set[str] = set()
        """Parameters whose secrets were sent back as the placeholder."""

    def options(self, *_path: str) -> None:
        self.set_header("Allow", ", ".join(sorted(self._allowed())))
        self.set_status(204)
        self.finish()

    def fields(self) -> dict[str, Any]:
        """The fields of the body, without secrets sent back as the placeholder. Raises `BodyError`."""
        given = parse_body(self.body(), self.request.headers.get("Content-Type", ""))
        self._secrets, self.left_alone = secret_values(given), shown_names(given)
        return without_shown(given)

    def answer(self, status: int, content: Mapping[str, Any]) -> None:
        super().answer(status, redacted(content))

    def answer_page(self, items: Sequence[Any], form: Form = SHOWN_ALREADY) -> None:
        query = {name: self.get_query_argument(name, None) for name in ("size", "offset", "tags")}
        self.answer(200, page(items, self.request.path, form, **query))

    def answer_entities(self, entities: Sequence[Entity]) -> None:
        self.answer_page(entities, Form(partial(shown, began=self.began), attrgetter("tags")))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond with an exception in Kong's format, without any secret that the request contained."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        told = _told(error)
        status = told[0] if told is not None else status_code
        if status == 405:
            self.set_header("Allow", ", ".join(sorted(self._allowed())))
        if told is not None:
            clear = reasons_without if isinstance(error, SchemaViolation) else redacted
            super().answer(status, clear(told[1], self._secrets))
        else:
            super().write_error(status)

    def log_exception(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Log unexpected errors only, without their content."""
        if error is not None and _told(error) is None and not isinstance(error, HTTPError):
            self._limited.error("admin", "moesif: a fault in the admin listener: %s", describe(error))

    def _allowed(self) -> set[str]:
        ours = (cls for cls in type(self).__mro__ if issubclass(cls, AdminHandler))
        return {name.upper() for cls in ours for name in vars(cls) if name.upper() in self.SUPPORTED_METHODS}


class ReadHandler(AdminHandler):
    """Handles HEAD like GET."""

    def head(self, *path: str) -> Awaitable[None] | None:
        return self.get(*path)


def _told(error: BaseException | None) -> tuple[int, dict[str, Any]] | None:
    """Status and body for an error for which Kong has a format; else None."""
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

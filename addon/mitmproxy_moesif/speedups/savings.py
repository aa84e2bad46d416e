"""Cheaper versions of what mitmproxy does for every exchange, with the same results and the reason for each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mitmproxy import http, log, options, optmanager
from mitmproxy.proxy.context import Context

from mitmproxy_moesif.speedups import dispatch

PLAIN = frozenset({bool, int, str, type(None)})

check_every_field: Callable[[http.MessageData], None] | None = vars(http.MessageData).get("__post_init__")
"""mitmproxy's own check; None under `python -O`."""


class PlainOptions(options.Options):
    """mitmproxy deep-copies an option twice at each read, 18 times per exchange. Immutable values need no copy."""

    def __getattr__(self, name: str) -> Any:
        option = self.__dict__["_options"].get(name)
        if option is None:
            raise AttributeError(f"No such option: {name}")
        value = option._default if option.value is optmanager.unset else option.value  # noqa: SLF001
        return value if type(value) in PLAIN else option.current()


class HeardLogEvents(log.LegacyLogEvents):
    """mitmproxy offers each log line to 36 addons as the deprecated hook `add_log`. Here only if an addon has it."""

    def emit(self, record: logging.LogRecord) -> None:
        if dispatch.listens(self.master.addons, log.AddLogHook):
            super().emit(record)


def check_fields(message: http.MessageData) -> None:
    """mitmproxy checks each field of a new message by interpreting its annotation. Here valid messages are fast."""
    if not (is_right(message) and (is_right_request(message) or is_right_response(message))):
        assert check_every_field is not None
        check_every_field(message)


def is_right(message: http.MessageData) -> bool:
    return (
        type(message.http_version) is bytes
        and type(message.headers) is http.Headers
        and message.content is None
        and message.trailers is None
        and type(message.timestamp_start) is float
        and message.timestamp_end is None
    )


def is_right_request(message: http.MessageData) -> bool:
    return type(message) is http.RequestData and (
        type(message.host) is str
        and type(message.port) is int
        and type(message.method) is bytes
        and type(message.scheme) is bytes
        and type(message.authority) is bytes
        and type(message.path) is bytes
    )


def is_right_response(message: http.MessageData) -> bool:
    return type(message) is http.ResponseData and (type(message.status_code) is int and type(message.reason) is bytes)


def get(headers: http.Headers, name: str | bytes, default: Any = None) -> Any:
    """In mitmproxy, a missing header costs an exception."""
    values = get_all(headers, name)
    return ", ".join(values) if values else default


def get_all(headers: http.Headers, name: str | bytes) -> list[str]:
    """mitmproxy lower-cases all names for each of 27 lookups per exchange. Comparing lengths rules out most of them."""
    key = (name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")).lower()
    length = len(key)
    return [
        value.decode("utf-8", "surrogateescape")
        for field, value in headers.fields
        if len(field) == length and field.lower() == key
    ]


def fork(context: Context) -> Context:
    """mitmproxy creates a server object with its own id for every stream, and then replaces it."""
    forked = Context.__new__(Context)
    forked.client, forked.options, forked.server = context.client, context.options, context.server
    forked.layers = context.layers.copy()
    return forked

"""User functions from the Python file named by `moesif_hooks`.

It may define any of these; `exchange` is a `HookExchange`:

    skip(exchange) -> bool                    true: no event
    identify_user(exchange) -> str | None     replaces the built-in result
    identify_company(exchange) -> str | None
    session_token(exchange) -> str | None
    metadata(exchange) -> dict                added to the event's metadata
    mask(event: dict) -> dict                 runs last; the event that it returns is sent

They run in the background process, with the file's content as the proxy read it; what they print goes to the log. The
two `identify_` functions also run in the proxy, before a rule decides, on the request path. Errors are counted and the
built-in result is used; after an error in `mask` the event is dropped, never sent unmasked.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import orjson

from mitmproxy_moesif.config.files import configured_files
from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.log import QuotesNothingError

NAMES = ("skip", "identify_user", "identify_company", "session_token", "metadata", "mask")

type Hook = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class HookExchange:
    """The argument of a hook. Header names are lower-case; `status` is None before or without a response."""

    method: str
    target: str
    client_address: str
    request_headers: Mapping[str, str]
    response_headers: Mapping[str, str]
    status: int | None
    user_id: str | None
    company_id: str | None
    request_body: bytes | None = None
    response_body: bytes | None = None


@dataclass(frozen=True, slots=True)
class UserHooks:
    """The functions that a file defines, by name; `source` is the file's content."""

    functions: Mapping[str, Hook]
    source: bytes = b""
    path: str = ""

    @classmethod
    def load(cls, path: str, source: bytes | None = None, previous: UserHooks | None = None) -> UserHooks:
        """Load from a file, or from its content as read by another process. Returns `previous` if nothing has changed.

        Raises `SettingsError` with a one-line text if it cannot be loaded or defines none of the functions.
        """
        try:
            source = configured_files.read(path) if source is None else source
        except OSError as error:
            raise SettingsError(f"hooks: {path}: {error.strerror}") from error
        try:
            if previous is not None and (previous.path, previous.source) == (path, source):
                return previous
            module = ModuleType("moesif_hooks_file")
            module.__file__ = path
            exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - the operator's own file
        except Exception as error:
            raise SettingsError(f"hooks: {path} cannot be loaded: {type(error).__name__}: {error}") from error
        functions = {name: function for name in NAMES if callable(function := getattr(module, name, None))}
        if not functions:
            raise SettingsError(f"hooks: {path} defines none of {', '.join(NAMES)}")
        for function in functions.values():
            if returns_no_result(function):
                raise SettingsError(f"hooks: {place_of(function)} must be a plain function: nobody awaits its result")
        configured_files.in_force(path)
        return cls(functions, source, path)

    def __contains__(self, name: str) -> bool:
        return name in self.functions

    def text(self, name: str, exchange: HookExchange) -> str | None:
        """The result of an `identify_` function; None if it is empty. Raises what the function raises."""
        value = self.functions[name](exchange)
        if isinstance(value, str | int | None) and not isinstance(value, bool):
            return None if value is None or value == "" else str(value)
        raise HookError(self.functions[name], value, "text")

    def metadata(self, exchange: HookExchange) -> dict[str, Any]:
        """The result of `metadata`. Raises what the function raises."""
        added = self.functions["metadata"](exchange)
        if not isinstance(added, dict):
            raise HookError(self.functions["metadata"], added, "a dict")
        return added

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event as returned by `mask`, which gets bodies as plain values. Raises what the function raises."""
        for side in ("request", "response"):
            body = event.get(side, {}).get("body")
            if isinstance(body, orjson.Fragment):
                event[side]["body"] = json.loads(orjson.dumps(body))
        masked = self.functions["mask"](event)
        if not isinstance(masked, dict):
            raise HookError(self.functions["mask"], masked, "the event")
        return masked


class HookError(QuotesNothingError):
    """A hook returned a value of the wrong type."""

    def __init__(self, hook: Hook, result: object, wanted: str) -> None:
        super().__init__(f"{place_of(hook)} returned {type(result).__name__}, not {wanted}")


def place_of(hook: Hook) -> str:
    """A hook's name, with its file and line."""
    code, name = getattr(hook, "__code__", None), getattr(hook, "__name__", type(hook).__name__)
    return f"{code.co_filename}, line {code.co_firstlineno}: {name}" if code is not None else name


def returns_no_result(hook: Hook) -> bool:
    """Whether calling it only creates a coroutine or a generator, and runs nothing."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(hook) for is_kind in kinds)

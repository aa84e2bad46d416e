"""Functions of those who embed the addon: a Python file named by `moesif_hooks`.

It may define any of these; `exchange` is a `HookExchange`:

    skip(exchange) -> bool                    true: no event
    identify_user(exchange) -> str | None     in place of the built-in answer
    identify_company(exchange) -> str | None
    session_token(exchange) -> str | None
    metadata(exchange) -> dict                added to the event's metadata
    mask(event: dict) -> dict                 the last to see the event; what it returns is sent

They run in the background process, which has what the file held when the proxy read it; what they print goes to the
log. The two that identify also run in the proxy, before a rule decides, on the request path. An error in one is counted
and the built-in answer holds; after an error in `mask` the event is dropped, never sent unmasked.
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
    """What a hook sees. Header names are lower-case; `status` is None before there is an answer, or without one."""

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
    """The functions that a file defines, by name; `source` is what the file held."""

    functions: Mapping[str, Hook]
    source: bytes = b""
    path: str = ""

    @classmethod
    def load(cls, path: str, source: bytes | None = None, previous: UserHooks | None = None) -> UserHooks:
        """From a file, or from what it held when another process read it; `previous` where that has not changed.

        Raises `SettingsError` with one line where it cannot be loaded or defines none of the functions.
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
        """The text that an identifying function gives; None where it has none to give. Raises what it raises."""
        value = self.functions[name](exchange)
        if isinstance(value, str | int | None) and not isinstance(value, bool):
            return None if value is None or value == "" else str(value)
        raise HookError(self.functions[name], value, "text")

    def metadata(self, exchange: HookExchange) -> dict[str, Any]:
        """What `metadata` adds. Raises what it raises."""
        added = self.functions["metadata"](exchange)
        if not isinstance(added, dict):
            raise HookError(self.functions["metadata"], added, "a dict")
        return added

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event as `mask` returns it; bodies are plain values for it. Raises what it raises."""
        for side in ("request", "response"):
            body = event.get(side, {}).get("body")
            if isinstance(body, orjson.Fragment):
                event[side]["body"] = json.loads(orjson.dumps(body))
        masked = self.functions["mask"](event)
        if not isinstance(masked, dict):
            raise HookError(self.functions["mask"], masked, "the event")
        return masked


class HookError(QuotesNothingError):
    """A hook returned what it may not."""

    def __init__(self, hook: Hook, result: object, wanted: str) -> None:
        super().__init__(f"{place_of(hook)} returned {type(result).__name__}, not {wanted}")


def place_of(hook: Hook) -> str:
    """Its name with the operator's file and line."""
    code, name = getattr(hook, "__code__", None), getattr(hook, "__name__", type(hook).__name__)
    return f"{code.co_filename}, line {code.co_firstlineno}: {name}" if code is not None else name


def returns_no_result(hook: Hook) -> bool:
    """What is called makes a coroutine or a generator, and does nothing."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(hook) for is_kind in kinds)

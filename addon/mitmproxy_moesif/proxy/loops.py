"""The event loop that a proxy runs on: uvloop with the fast lane if it is installed, otherwise asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from mitmproxy_moesif.config.options import ENVIRONMENT_PREFIX
from mitmproxy_moesif.config.settings import option_name
from mitmproxy_moesif.lane.serving import is_fast
from mitmproxy_moesif.proxy.arguments import Arguments
from mitmproxy_moesif.proxy.configuration import ConfigurationError, read

ENGINE = "engine"


def loop_factory(arguments: Arguments, environ: Mapping[str, str]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop factory; None for asyncio's own loop. Called before there is a loop, and so before there are options."""
    return fast_loop() if is_fast(wanted_engine(arguments, environ)) else None


def wanted_engine(arguments: Arguments, environ: Mapping[str, str]) -> str:
    name = option_name(ENGINE)
    for setting in reversed(arguments.settings):
        if setting.startswith(f"{name}="):
            return setting.partition("=")[2]
    with suppress(ConfigurationError):  # reported when the file is read later
        if arguments.config is not None and name in (given := read(arguments.config)):
            return str(given[name])
    return environ.get(ENVIRONMENT_PREFIX + ENGINE.upper(), "auto")


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None

    class Loop(uvloop.Loop):
        def set_task_factory(self, factory: Any) -> None:
            """mitmproxy sets asyncio's eager factory, which does not accept an argument that uvloop passes."""
            own: Any = eager
            super().set_task_factory(own if factory is asyncio.eager_task_factory else factory)

    return Loop


def eager(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **how: Any) -> asyncio.Future[Any]:
    how.pop("eager_start", None)
    return asyncio.eager_task_factory(loop, work, **how)

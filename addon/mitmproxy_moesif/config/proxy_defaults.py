"""The mitmproxy options that a transparent reverse proxy needs, each set only if the user has not set it."""

from __future__ import annotations

import logging
import re
from typing import Any

from mitmproxy import optmanager

_QUOTED = re.compile(r"(?:\bb|(?<=WebSocket extension ))['\"].*", re.DOTALL)

TRANSPARENT: dict[str, Any] = {
    "keep_host_header": True,  # Kong routes on it
    "keep_alt_svc_header": True,
    "connection_strategy": "lazy",  # so that a refused upstream connection gives a response, and an event
    "block_global": False,  # the default rejects clients with public addresses
    "onboarding": False,  # else mitmproxy answers `Host: mitm.it` itself
    "tcp_timeout": 86_400,  # server-sent events and WebSockets may be idle for long
}


def set_defaults(options: optmanager.OptManager) -> None:
    """Set options that the user has not set on the command line, in config.yaml or live, even to the default value."""
    wanted = {
        name: value
        for name, value in TRANSPARENT.items()
        if name in options and options._options[name].value is optmanager.unset  # noqa: SLF001 - the only test
    }
    if "http2" in options and options._options["http2"].value is optmanager.unset and not speaks_h2(options):  # noqa: SLF001
        wanted["http2"] = False
    options.update(**wanted)


def hide_flows(options: optmanager.OptManager) -> str | None:
    """Turn off mitmdump's own lines about flows, which would show masked data. Call only if something is masked.
    Returns what was done, or what the user should do, to be logged once; None if nothing."""
    if "flow_detail" not in options or not options.flow_detail:
        return None
    if options._options["flow_detail"].value is not optmanager.unset:  # noqa: SLF001
        return "something is masked, and mitmproxy's own lines show it: flow_detail is set above 0"
    options.update(flow_detail=0)
    return "something is masked: mitmproxy's own lines about flows, which would show it, are off (flow_detail=0)"


class Unquoted(logging.Filter):
    """Removes quotes from mitmproxy's messages about malformed heads: they may contain credentials or masked values."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        record.msg, record.args = _QUOTED.sub("(not shown)", message), None
        return True


def quote_no_heads() -> None:
    """Install the filter `Unquoted`; a second call does nothing."""
    logger = logging.getLogger("mitmproxy.proxy.server")
    if not any(type(one).__name__ == Unquoted.__name__ for one in logger.filters):  # a reload creates a new class
        logger.addFilter(Unquoted())


def speaks_h2(options: optmanager.OptManager) -> bool:
    """Whether all upstreams use TLS. Over plain HTTP/1, an HTTP/2 POST without a length would lose its body."""
    modes: list[str] = list(options.mode)
    return not any(mode.startswith("reverse:http://") for mode in modes)

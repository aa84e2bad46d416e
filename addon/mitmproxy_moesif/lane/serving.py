"""What the lane does not serve. All of it is left to mitmproxy's layers, each for a reason."""

from __future__ import annotations

from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.master import Master
from mitmproxy.proxy import layer
from mitmproxy.proxy.mode_specs import ProxyMode, ReverseMode

from mitmproxy_moesif.speedups.dispatch import PreparedAddonManager, plan_for

OPTIONS: dict[str, tuple[object, str]] = {
    "certs": ([], "TLS toward clients, with its hooks, is mitmproxy's"),
    "connection_strategy": ("lazy", "connections to the upstream are opened before they are needed"),
    "keep_host_header": (True, "the Host header is replaced"),
    "validate_inbound_headers": (True, "messages that can be read in two ways are let through"),
    "body_size_limit": (None, "bodies are counted while they are buffered"),
    "stream_large_bodies": (None, "bodies are streamed from a size on"),
    "store_streamed_bodies": (False, "streamed bodies are kept"),
}
"""Options of mitmproxy: the value with which the lane serves, and what any other one asks for."""


def is_fast(engine: str) -> bool:
    """Whether `moesif_engine` asks for the lane, where it serves."""
    return engine != "mitmproxy"


def why_unserved(master: Master, known: tuple[type, ...]) -> str | None:
    """Why no connection of this proxy is served; None where the lane may. `known` addons choose layers as it does."""
    manager, options = master.addons, master.options
    if not isinstance(manager, PreparedAddonManager):
        return "moesif_fast_dispatch is off, by which the lane calls hooks"
    for name, (served, reason) in OPTIONS.items():
        if getattr(options, name) != served:
            return f"{name}: {reason}"
    modes = [ProxyMode.parse(mode) for mode in options.mode]
    if not all(isinstance(mode, ReverseMode) and mode.scheme == "http" for mode in modes):
        return "TLS toward the upstream, and its verification, is mitmproxy's"
    choosing = [addon for addon, _ in plan_for(manager, layer.NextLayerHook).calls]
    if any(type(addon) not in (NextLayer, *known) for addon in choosing):
        return "an addon chooses the protocols of connections"
    return None

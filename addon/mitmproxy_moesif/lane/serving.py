"""What the lane does not serve, and why. mitmproxy's layers serve it instead."""

from __future__ import annotations

from mitmproxy import hooks
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.master import Master
from mitmproxy.proxy import layer, server_hooks
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.mode_specs import ProxyMode, ReverseMode

from mitmproxy_moesif.speedups.dispatch import PreparedAddonManager, plan_for

OPTIONS: dict[str, tuple[object, str]] = {
    "connection_strategy": ("lazy", "connections to the upstream are opened before they are needed"),
    "keep_host_header": (True, "the Host header is replaced"),
    "validate_inbound_headers": (True, "messages that can be read in two ways are let through"),
    "body_size_limit": (None, "bodies are counted while they are buffered"),
    "stream_large_bodies": (None, "bodies are streamed from a size on"),
    "store_streamed_bodies": (False, "streamed bodies are kept"),
    "ignore_hosts": ([], "connections are passed on unread"),
    "allow_hosts": ([], "connections are passed on unread"),
    "proxy_debug": (False, "mitmproxy's layers tell what they do"),
}
"""mitmproxy's options: the value that the lane requires, and what any other value means."""

HOOKS: dict[type[hooks.Hook], str] = {
    layer.NextLayerHook: "an addon chooses the protocols of connections",
    server_hooks.ServerConnectHook: "an addon has a say in connections to the upstream, maybe for each client",
    tls.TlsStartServerHook: "an addon has a say in TLS toward the upstream, maybe for each client",
}
"""Hooks that prevent the lane from serving if an addon other than mitmproxy's own has them, and the reason."""

OWN = (NextLayer, Proxyserver, TlsConfig)

UPSTREAM_TLS = frozenset(
    {
        "ciphers_server",
        "client_certs",
        "http2",
        "ssl_insecure",
        "ssl_verify_upstream_trusted_ca",
        "ssl_verify_upstream_trusted_confdir",
        "tls_ecdh_curve_server",
        "tls_version_server_max",
        "tls_version_server_min",
    }
)
"""mitmproxy's options that affect TLS connections to the upstream."""


def is_fast(engine: str) -> bool:
    """Whether `moesif_engine` allows the lane."""
    return engine != "mitmproxy"


def why_unserved(master: Master, known: tuple[type, ...]) -> str | None:
    """Why the lane serves no connection of this proxy; None if it may. `known` addons are treated like mitmproxy's."""
    manager, options = master.addons, master.options
    if not isinstance(manager, PreparedAddonManager):
        return "moesif_fast_dispatch is off, by which the lane calls hooks"
    for name, (served, reason) in OPTIONS.items():
        if getattr(options, name) != served:
            return f"{name}: {reason}"
    for hook, reason in HOOKS.items():
        if any(type(addon) not in (*OWN, *known) for addon, *_ in plan_for(manager, hook).calls):
            return reason
    return None


def why_mode_is_unserved(mode: ProxyMode) -> str | None:
    if not isinstance(mode, ReverseMode):
        return f"{mode.type_name} mode: a client says where its requests go"
    if mode.scheme not in ("http", "https"):
        return f"the upstream speaks {mode.scheme}"
    return None

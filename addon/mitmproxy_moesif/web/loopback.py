"""Recognizes this machine's loopback, for listeners that only its own user may reach."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an IP address without brackets, is this machine's loopback."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(host_header: str) -> str | None:
    """The name in a Host header, in lower case, without port; None if there is none."""
    try:
        return urlsplit(f"//{host_header}").hostname
    except ValueError:
        return None


def names_loopback(host_header: str) -> bool:
    """Whether a Host header, with or without a port, names a loopback host."""
    name = host_name(host_header)
    return name is not None and is_loopback(name)


def is_bound_to_loopback(bound: socket.socket) -> bool:
    """Whether a listening socket can only be reached from this machine."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback

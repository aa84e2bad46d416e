"""Access control of a listener.

It either listens on a loopback address or requires a token. Three attacks from a page in a browser are refused too: a
Host header that names neither a loopback host nor the listening address (DNS rebinding: a page's own name can resolve
to 127.0.0.1), a change sent by another site's page, and a read by another site's page (it could not read the response,
which never allows that; without a token it gets none).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mitmproxy_moesif.web.loopback import host_name, is_loopback

OPEN = frozenset(("/health", "/ping"))
"""Paths for probes, which need no token."""

ANOTHER_SITES = "changes from another site's page are refused"
ANOTHER_USES = "requests from another site's page are refused, except for links"
KONG_TOKEN = "Kong-Admin-Token"  # noqa: S105 - the name of a header
MAX_PORT = 65_535

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a name or an IP address without brackets, or empty for all; and a port, 0 for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `HOST:PORT`. Raises `ValueError` with one line."""
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match[3]) > MAX_PORT:
            raise ValueError("admin_listen: must be HOST:PORT, such as 127.0.0.1:8095")
        return cls(match[1] or match[2], int(match[3]))

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


def octets_of(token: str) -> bytes:
    """A token as bytes for a header, without surrounding white space from a file or shell."""
    return token.strip().encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The response to a refused request."""

    status: int
    message: str


class Gate:
    """Decides on requests by their head. Raises `ValueError` if the address requires a token and there is none."""

    def __init__(self, address: Address, token: str | None) -> None:
        self._address = address
        self._token = octets_of(token or "")
        if not self._token and not address.is_loopback:
            raise ValueError(
                f"admin_listen: {address} is not a loopback address: others may reach it, so admin_token is needed"
            )

    @property
    def demands_token(self) -> bool:
        return bool(self._token)

    def refusal(self, method: str, path: str, host: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is refused; None if it may pass. `headers` must be case-insensitive."""
        authorized = not self._token or self._shows_token(headers)
        if not self._may_be_named(host, known=bool(self._token) and authorized):
            return Refusal(403, "Host must be a loopback name or the listening address")
        if not authorized and path.rstrip("/") not in OPEN:
            return Refusal(401, "Unauthorized")
        if is_from_another_site(method, host, headers.get("Origin")):
            return Refusal(403, ANOTHER_SITES)
        if not self._token and is_used_by_another_site(headers.get("Sec-Fetch-Site"), headers.get("Sec-Fetch-Dest")):
            return Refusal(403, ANOTHER_USES)
        return None

    def _shows_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        given = [headers.get(KONG_TOKEN, ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        # Header values were decoded as Latin-1. Both are compared, even if the first one matches.
        fits = [hmac.compare_digest(value.encode("latin-1", "replace"), self._token) for value in given]
        return any(fits)

    def _may_be_named(self, host_header: str, *, known: bool) -> bool:
        """With a valid token any name is allowed, and beyond loopback any IP address: DNS rebinding needs a name."""
        name = host_name(host_header)
        if name is None:
            return False
        if known or is_loopback(name) or name == self._address.host.lower():
            return True
        return not self._address.is_loopback and _is_ip(name)


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_from_another_site(method: str, host: str, origin: str | None) -> bool:
    """Whether a page of another site sends a request that would change something."""
    return method not in ("GET", "HEAD") and origin is not None and not is_same_host(origin, host)


def is_used_by_another_site(site: str | None, destination: str | None) -> bool:
    """Whether a page of another site requests this, for instance as an image: it could not read the response, but make
    the proxy compute many. Following a link is allowed. `site` and `destination` are the headers Sec-Fetch-Site and
    Sec-Fetch-Dest.
    """
    return site == "cross-site" and destination != "document"


def is_same_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False

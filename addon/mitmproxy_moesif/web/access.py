"""Who may use the listener.

It listens on a loopback address, or demands a token. Three more things are refused, all of which a page in somebody's
browser could try: a Host header that names neither a loopback host nor the address listened on (a page can have its own
name resolve to 127.0.0.1), a change that another site's page sends, and reading from another site's page (no answer
allows that, and without a token none is made).
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
"""Paths for probes: no token is asked for."""

ANOTHER_SITES = "changes from another site's page are refused"
ANOTHER_USES = "what another site's page asks for is refused, but for links"
KONG_TOKEN = "Kong-Admin-Token"  # noqa: S105 - a header's name
MAX_PORT = 65_535

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a name or an IP address without brackets, empty for all; and a port, 0 for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `HOST:PORT`. Raises `ValueError` with one line."""
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
    """A token as it goes into a header; without the white space that a file or a shell puts around it."""
    return token.strip().encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of what was asked for."""

    status: int
    message: str


class Gate:
    """Judges requests by their head alone. Raises `ValueError` for an address that demands a token and has none."""

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
        """Why a request is turned away; None: it may pass. `headers` finds names in any case."""
        authorized = not self._token or self._shows_token(headers)
        if not self._may_be_named(host, known=bool(self._token) and authorized):
            return Refusal(403, "Host must be a loopback name or the address listened on")
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
        # Header values were decoded as Latin-1. Both are compared, whichever fits.
        fits = [hmac.compare_digest(value.encode("latin-1", "replace"), self._token) for value in given]
        return any(fits)

    def _may_be_named(self, host_header: str, *, known: bool) -> bool:
        """Any name will do for who shows the token, and beyond loopback any IP address: rebinding needs a name."""
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
    """Whether a page of another site sends this, and it would change something."""
    return method not in ("GET", "HEAD") and origin is not None and not is_same_host(origin, host)


def is_used_by_another_site(site: str | None, destination: str | None) -> bool:
    """Whether a page of another site asks for this, be it for an image: it could not read the answer, but have the
    proxy make many. A link that was followed may pass. Both values are what browsers say of a request to this machine.
    """
    return site == "cross-site" and destination != "document"


def is_same_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False

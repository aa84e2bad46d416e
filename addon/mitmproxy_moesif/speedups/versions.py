"""The versions of mitmproxy whose private interfaces were tested with this package."""

from __future__ import annotations

from mitmproxy import version

TESTED = ("12.1.0", "12.1.1", "12.1.2", "12.2.0", "12.2.1", "12.2.2", "12.2.3", "12.3.0", "12.3.1")


def untested(running: str = version.VERSION) -> str | None:
    """Why the private interfaces must not be used; None if the running version is tested."""
    if running in TESTED:
        return None
    return f"not tested with mitmproxy {running} (but with {TESTED[0]} to {TESTED[-1]})"

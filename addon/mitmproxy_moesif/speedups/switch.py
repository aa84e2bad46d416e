"""Implements `moesif_fast_dispatch`: makes a running mitmproxy faster, and restores it.

On untested versions of mitmproxy, import only this module and not `catalog`: it checks the version first.
"""

from __future__ import annotations

from mitmproxy.master import Master

from mitmproxy_moesif.speedups import versions


def install(master: Master) -> str | None:
    """Install all speedups. Returns why they stay off, or None. Call on the event loop; may be called again."""
    if (reason := versions.untested()) is not None:
        return reason
    from mitmproxy_moesif.speedups import catalog

    return catalog.install(master)


def uninstall(master: Master) -> None:
    """Restore mitmproxy, if anything was changed."""
    if versions.untested() is None:
        from mitmproxy_moesif.speedups import catalog

        catalog.uninstall(master)

"""What `moesif_fast_dispatch` switches: a running mitmproxy made faster, and put back as it was.

Only this may be imported on a mitmproxy that was not tested: it looks at the version before it touches anything.
"""

from __future__ import annotations

from mitmproxy.master import Master

from mitmproxy_moesif.speedups import versions


def install(master: Master) -> str | None:
    """Put everything in place; why it stays off, or None. To be called on the event loop; may be called again."""
    if (reason := versions.untested()) is not None:
        return reason
    from mitmproxy_moesif.speedups import catalog

    return catalog.install(master)


def uninstall(master: Master) -> None:
    """Leave mitmproxy as it was found, if anything was changed."""
    if versions.untested() is None:
        from mitmproxy_moesif.speedups import catalog

        catalog.uninstall(master)

"""The laws of proxy/tls.py that need no connection; test_proxy.py has the others."""

from __future__ import annotations

from pathlib import Path

from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from mitmproxy_moesif.proxy.tls import Tls


def test_no_option_makes_an_authority(tmp_path: Path) -> None:
    """All of them, also those that a later mitmproxy adds: a change of any could have it make one, or read one."""
    tls = Tls()
    with taddons.context(Proxyserver(), tls) as context:
        context.options.update(confdir=str(tmp_path))
        # mitmproxy before 12.3 fails at the versions where OpenSSL has no SSLv3.
        names = {name for name in context.options.keys() if not name.startswith("tls_version_")}  # noqa: SIM118
        tls.configure(names - {"certs"})
        assert not tls.certstore
        assert not list(tmp_path.iterdir())

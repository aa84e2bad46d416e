"""What mitmproxy imports and `moesif-proxy` has no use for."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENTRIES = ("mitmproxy_moesif.workers.worker", "mitmproxy_moesif.workers.main")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_worker_does_not_import_what_it_does_not_use(entry: str) -> None:
    listed = run(f"import sys, {entry}, mitmproxy_moesif.proxy.serve; print(*sys.modules, sep='\\n')").split()
    assert "mitmproxy.addons.tlsconfig" in listed
    assert not {"flask", "ldap3", "mitmproxy.contentviews", "mitmproxy.tools.dump", "werkzeug"} & set(listed)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("from mitmproxy.addons.proxyauth import ProxyAuth as Found", "ProxyAuth"),
        ("from mitmproxy.addons import maplocal; Found = maplocal.MapLocal", "MapLocal"),
        ("import mitmproxy.addons.onboarding as module; Found = module.Onboarding", "Onboarding"),
        ("from mitmproxy.addons import default_addons; Found = type(default_addons()[14])", "ProxyAuth"),
    ],
)
def test_a_script_that_asks_for_it_gets_it(asked: str, name: str) -> None:
    assert run(f"import mitmproxy_moesif.workers.worker\n{asked}\nprint(Found.__name__)").strip() == name

"""The traffic page of a running proxy in headless Chromium: when it is painted, and when it shows an exchange."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from playwright.sync_api import Page, sync_playwright

from tests.bench.children import Child
from tests.bench.proxy import Account, Proxy
from tests.bench.services import Services
from tests.bench.variants import Variant
from tests.support.browser import chromium
from tests.support.ports import free_port

PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
FILLED = "() => document.querySelector('.ag-row') ? performance.now() : undefined"
SEEN = """path => {
  const found = () => [...document.querySelectorAll('.ag-row')].some(row => row.textContent.includes(path));
  window.seen = new Promise(resolve => {
    const look = () => found() ? resolve(Date.now()) : requestAnimationFrame(look);
    look();
  });
}"""


class Watched(Proxy):
    """A proxy whose traffic page is open, and follows, from its creation to `stop`."""

    def __init__(self, variant: Variant, services: Services, folder: Path, upstream_port: int | None = None) -> None:
        super().__init__(variant, services, folder, upstream_port)
        self._watching = ExitStack()
        try:
            self.tab = self._open(folder)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: Path) -> Page:
        port = free_port()
        command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--listen", f"127.0.0.1:{port}"]
        command += ["--admin", f"http://127.0.0.1:{self.admin_port}"]
        self._watching.enter_context(Child("page", command, folder)).wait_for_port(port)
        playwright = self._watching.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        self._watching.callback(browser.close)
        tab = browser.new_page()
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector(".ag-root")
        return tab

    def close(self) -> None:
        self._watching.close()
        super().close()

    def stop(self) -> Account | None:
        self._watching.close()
        return super().stop()

    def paints(self) -> tuple[float, float]:
        """Milliseconds from a reload until something is painted, and until there are rows."""
        self.tab.reload()
        filled, painted = (self.tab.wait_for_function(what).json_value() for what in (FILLED, PAINTED))
        return float(painted), float(filled)

    def shows(self, path: str) -> float:
        """Milliseconds from the end of an exchange until it is in the list."""
        self.tab.evaluate(SEEN, path)
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            answer.read()
        self.sent(1)
        ended = time.time() * 1000
        return max(0.0, float(self.tab.evaluate("() => window.seen")) - ended)

"""The real mitmweb, asked over its HTTP API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

from tests.support.proxy import BIN, Mitmdump, Option

PASSWORD = "a-password"
TOKEN = "5a" * 16
"""Against cross-site requests: cookie and header have to be the same."""

SECONDS = 20


class WebApi:
    """Of a mitmweb that runs."""

    def __init__(self, url: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.get(url, params={"token": password}, timeout=SECONDS).raise_for_status()

    def get(self, path: str) -> Any:
        answer = self._session.get(f"{self._url}{path}", timeout=SECONDS)
        answer.raise_for_status()
        return answer.json()

    def flow(self, path: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The one with this path, once it fits."""
        deadline = time.monotonic() + SECONDS
        while True:
            flows: list[dict[str, Any]] = self.get("/flows")
            for flow in flows:
                if flow["request"]["path"] == path and fits(flow):
                    return flow
            assert time.monotonic() < deadline, f"no such flow of {path}: {flows}"
            time.sleep(0.05)

    def view(self, flow: dict[str, Any], name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/flows/{flow['id']}/response/content/{name}.json")
        return found

    def call(self, name: str, *arguments: str) -> Any:
        """A command's result. Raises `AssertionError` with its error."""
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._session.cookies)
        headers = {"X-XSRFToken": TOKEN, "Cookie": f"_mitmproxy_xsrf={TOKEN}; {cookies}"}
        url = f"{self._url}/commands/{name}"
        answer = self._session.post(url, json={"arguments": arguments}, headers=headers, timeout=SECONDS).json()
        assert "error" not in answer, answer["error"]
        return answer["value"]


class Mitmweb(Mitmdump):
    """mitmweb with the addon in front of an upstream; `Mitmdump` has the rest."""

    def __init__(self, upstream: str, options: dict[str, Option], web_port: int) -> None:
        extra = ["--web-host", "127.0.0.1", "--web-port", str(web_port), "--no-web-open-browser"]
        options = {"web_password": PASSWORD, **options}
        super().__init__(upstream, options, program=(str(BIN / "mitmweb"),), extra_args=extra)
        self.wait_for_output("Web server listening at")
        self.web = WebApi(f"http://127.0.0.1:{web_port}", PASSWORD)

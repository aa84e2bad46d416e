"""What the local servers share: JSON answers, and who may talk to a server that listens on loopback."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from tornado.web import RequestHandler

from mitmproxy_moesif.web.loopback import names_loopback

logger = logging.getLogger(__name__)


class JsonHandler(RequestHandler):
    """Answers in JSON, errors too: `{"error": "one line"}`.

    On a server bound to a loopback address it answers only requests that name a loopback host. A page in a browser can
    have its own host name resolve to 127.0.0.1 and would otherwise read what is meant for this machine's user.
    """

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        # Events hold what strangers sent; no browser shall take that for a page.
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        if self.settings["loopback_only"] and not names_loopback(self.request.host):
            self.refuse(403, "this server is for its own machine: Host must be a loopback name")

    def compute_etag(self) -> str | None:
        """None: only what has a tag of its own sends one."""
        return None

    def answer(self, status: int, content: object) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(orjson.dumps(content))

    def refuse(self, status: int, reason: str) -> None:
        self.answer(status, {"error": reason})

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        self.refuse(status_code, self._reason)

    # Tornado asks every handler for both; only servers that stream bodies in have a use for it.
    def data_received(self, chunk: bytes) -> None:
        raise NotImplementedError


class NotFoundHandler(JsonHandler):
    """Any path that is not there."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self.refuse(404, "there is nothing at this path")


def log_request(handler: RequestHandler) -> None:
    """Instead of Tornado's access log, which warns about each refusal: what is refused is told to the client."""
    logger.debug("%d %s %s", handler.get_status(), handler.request.method, handler.request.path)

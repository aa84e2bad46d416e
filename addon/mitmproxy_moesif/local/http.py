"""Shared by the local servers: the form of errors, and access control on loopback."""

from __future__ import annotations

import logging

from tornado.web import RequestHandler

from mitmproxy_moesif.web.access import ANOTHER_SITES, ANOTHER_USES, is_from_another_site, is_used_by_another_site
from mitmproxy_moesif.web.handlers import JsonHandler
from mitmproxy_moesif.web.loopback import names_loopback

logger = logging.getLogger(__name__)


class LocalHandler(JsonHandler):
    """The base class of handlers. Errors are `{"error": "one line"}`.

    A server on a loopback address accepts only requests that name a loopback host: otherwise a page in a browser could
    let its own host name resolve to 127.0.0.1 and read data of this machine's user. On any address, requests from
    another site's page are refused, except for following links.
    """

    error_key = "error"
    media_type = "application/json"

    def prepare(self) -> None:
        if self.settings["loopback_only"] and not names_loopback(self.request.host):
            self.refuse(403, "this server only serves its own machine: Host must be a loopback name")
        elif is_from_another_site(self.request.method or "", self.request.host, self.request.headers.get("Origin")):
            self.refuse(403, ANOTHER_SITES)
        elif is_used_by_another_site(*map(self.request.headers.get, ("Sec-Fetch-Site", "Sec-Fetch-Dest"))):
            self.refuse(403, ANOTHER_USES)


class NotFoundHandler(LocalHandler):
    """Responds to unknown paths."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self.refuse(404, "unknown path")


def log_request(handler: RequestHandler) -> None:
    """Replaces Tornado's access log, which would warn about each refused request."""
    logger.debug("%d %s %s", handler.get_status(), handler.request.method, handler.request.path)

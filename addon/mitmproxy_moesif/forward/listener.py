"""Status, metrics and health of the forwarders, in the proxy's formats."""

from __future__ import annotations

from collections.abc import Callable

from tornado.web import Application

from mitmproxy_moesif.admin.metrics import exposition
from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.admin.service import status_of, trouble_of
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.api import Condition
from mitmproxy_moesif.web.access import Gate
from mitmproxy_moesif.web.handlers import GatedHandler


def server(settings: Settings, began: float, condition: Callable[[], Condition]) -> AdminServer | None:
    """The listener, not yet started; None if none is configured. Raises the same as `AdminServer`."""
    if settings.admin_listen is None:
        return None

    def app(gate: Gate) -> Application:
        arguments = {"began": began, "condition": condition}
        paths = r"/(status|metrics|health|ping)/?"
        return Application([(paths, _Handler, arguments)], log_function=lambda _handler: None, gate=gate)

    return AdminServer(
        settings.admin_listen, settings.admin_token.get_secret_value() or None, app, "status and metrics"
    )


class _Handler(GatedHandler):
    def initialize(self, began: float, condition: Callable[[], Condition]) -> None:
        self._began = began
        self._condition = condition

    def get(self, path: str) -> None:
        condition = self._condition()
        if path == "status":
            self.answer(200, status_of(condition, self._began))
        elif path == "metrics":
            accept = self.request.headers.get("Accept", "")
            self.answer_text(*exposition(status_of(condition, self._began), accept))
        elif path == "ping":
            self.answer_text("PONG")
        else:
            self.answer_health(trouble_of(condition))

    head = get

"""The content view "Moesif event": for the flow in focus its event, as it is sent."""

from __future__ import annotations

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Metadata, SyntaxHighlight

from mitmproxy_moesif.interactive.preview import NoEventError, record_of, shown
from mitmproxy_moesif.lifecycle import Lifecycle


class EventView(contentviews.Contentview):
    """Chosen by hand only."""

    name = "Moesif event"
    syntax_highlight: SyntaxHighlight = "javascript"

    def __init__(self, life: Lifecycle) -> None:
        self._life = life

    def prettify(self, data: bytes, metadata: Metadata) -> str:  # noqa: ARG002 - the whole exchange is shown
        flow = metadata.flow
        if not isinstance(flow, http.HTTPFlow):
            return "There are events of HTTP exchanges only."
        try:
            return shown(record_of(self._life, flow))
        except NoEventError as error:
            return f"No event: {error}."

    def render_priority(self, data: bytes, metadata: Metadata) -> float:  # noqa: ARG002
        return -1

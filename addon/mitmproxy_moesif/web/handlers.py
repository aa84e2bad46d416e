"""The base classes of our listeners' handlers: JSON responses, including errors, and access control by the head."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson
from tornado.web import HTTPError, RequestHandler, stream_request_body

MAX_BODY_BYTES = 65_536
MAX_DIGITS = 20
"""Maximum digits of a length; Python refuses to parse numbers with thousands of digits."""

MESSAGES = {
    404: "Not found",
    405: "Method not allowed",
    413: f"a body may have at most {MAX_BODY_BYTES} bytes",
    500: "An unexpected error occurred",
}


class JsonHandler(RequestHandler):
    """Responds in JSON; errors are `{"message": "one line"}`, with the key from `error_key`."""

    error_key: ClassVar = "message"
    media_type: ClassVar = "application/json; charset=utf-8"

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        # Responses contain untrusted data, which no browser may interpret as a page.
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """None: no automatic ETag."""
        return None

    def answer(self, status: int, content: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Type", self.media_type)
        self.finish(orjson.dumps(content) + b"\n")

    def answer_text(self, text: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.set_header("Content-Type", content_type)
        self.finish(text)

    def answer_health(self, trouble: str | None) -> None:
        if trouble is None:
            self.answer(200, {"status": "ok"})
        else:
            self.answer(503, {"status": "unhealthy", "reason": trouble})

    def refuse(self, status: int, reason: str) -> None:
        self.answer(status, {self.error_key: reason})

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        self.refuse(status_code, self._reason)

    # Tornado requires this method of every handler; only those that stream request bodies use it.
    def data_received(self, chunk: bytes) -> None:
        raise NotImplementedError


@stream_request_body
class GatedHandler(JsonHandler):
    """Decides on a request by its head, before reading its body, of which no more than the limit is read.

    The application's setting `gate` is the `Gate` to use.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._body = bytearray()
        self._is_admitted = False
        super().__init__(*args, **kwargs)

    def prepare(self) -> None:
        request, gate = self.request, self.settings["gate"]
        refusal = gate.refusal(request.method or "", request.path, request.host, request.headers)
        if refusal is not None:
            self.set_header("Connection", "close")  # Tornado closes it after a response sent before reading the body
            if refusal.status == 401:
                self.set_header("WWW-Authenticate", "Bearer")
            self.refuse(refusal.status, refusal.message)
        elif (length := request.headers.get("Content-Length", "0")).isdecimal() and (
            len(length) > MAX_DIGITS or int(length) > MAX_BODY_BYTES
        ):
            self.send_error(413)
        else:
            self._is_admitted = True

    def data_received(self, chunk: bytes) -> None:
        """Keeps at most one byte more than allowed, which shows that the body is too large."""
        self._body += chunk[: MAX_BODY_BYTES + 1 - len(self._body)]

    def body(self) -> bytes:
        """The whole body. Raises `HTTPError` if it is too large."""
        if len(self._body) > MAX_BODY_BYTES:
            raise HTTPError(413)
        return bytes(self._body)

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        if status_code == 413 or not self._is_admitted:  # not admitted: e.g. a path that is not UTF-8 skips `prepare`
            self.set_header("Connection", "close")
        self.refuse(status_code, MESSAGES.get(status_code, self._reason))

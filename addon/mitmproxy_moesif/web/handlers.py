"""What the handlers of our listeners share: answers in JSON, errors too, and judging a request by its head."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson
from tornado.web import HTTPError, RequestHandler, stream_request_body

MAX_BODY_BYTES = 65_536
MAX_DIGITS = 20
"""Of a length: Python reads no number of thousands of digits."""

MESSAGES = {
    404: "Not found",
    405: "Method not allowed",
    413: f"a body may have {MAX_BODY_BYTES} bytes",
    500: "An unexpected error occurred",
}


class JsonHandler(RequestHandler):
    """Answers in JSON, errors too: `{"message": "one line"}`, with the key that `error_key` says."""

    error_key: ClassVar = "message"
    media_type: ClassVar = "application/json; charset=utf-8"

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        # Answers hold what strangers sent; no browser shall take that for a page.
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """None: only what has a tag of its own sends one."""
        return None

    def answer(self, status: int, content: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Type", self.media_type)
        self.finish(orjson.dumps(content) + b"\n")

    def answer_text(self, text: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.set_header("Content-Type", content_type)
        self.finish(text)

    def answer_health(self, well: bool, reason: str) -> None:
        self.answer(200 if well else 503, {"status": "ok"} if well else {"status": "unhealthy", "reason": reason})

    def refuse(self, status: int, reason: str) -> None:
        self.answer(status, {self.error_key: reason})

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        self.refuse(status_code, self._reason)

    # Tornado asks every handler for it; only those that stream bodies in have a use for it.
    def data_received(self, chunk: bytes) -> None:
        raise NotImplementedError


@stream_request_body
class GatedHandler(JsonHandler):
    """Judges a request by its head, before its body is read; reads no more of that than is allowed.

    The application's setting `gate` is the `Gate` that is asked.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._body = bytearray()
        self._is_admitted = False
        super().__init__(*args, **kwargs)

    def prepare(self) -> None:
        request, gate = self.request, self.settings["gate"]
        refusal = gate.refusal(request.method or "", request.path, request.host, request.headers)
        if refusal is not None:
            self.set_header("Connection", "close")  # Tornado closes it after an answer that did not wait for the body
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
        """Keeps one byte too many at most, which tells that there were too many."""
        self._body += chunk[: MAX_BODY_BYTES + 1 - len(self._body)]

    def body(self) -> bytes:
        """The whole body. Raises `HTTPError` where it is too large."""
        if len(self._body) > MAX_BODY_BYTES:
            raise HTTPError(413)
        return bytes(self._body)

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        if status_code == 413 or not self._is_admitted:  # such as a path that is not UTF-8: `prepare` was not asked
            self.set_header("Connection", "close")
        self.refuse(status_code, MESSAGES.get(status_code, self._reason))

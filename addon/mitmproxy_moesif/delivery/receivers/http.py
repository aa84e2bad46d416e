"""POST requests to one URL over a persistent connection, each with one overall deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from urllib3.exceptions import DecodeError

from mitmproxy_moesif import __version__
from mitmproxy_moesif.web.session import DeadlineSession

MAX_ANSWER_BYTES = 65_536


class Poster:
    """For one thread. A POST may take `connect`, `send` and `answer` seconds, but never more than `deadline`."""

    def __init__(
        self, url: str, headers: Mapping[str, str], connect: float, send: float, answer: float, deadline: float
    ) -> None:
        self._url = url
        self._timeout = (connect, answer)
        self._seconds = deadline
        self.answer = b""
        """The body of the last response, as far as it was read."""
        self._session = DeadlineSession(send)
        # Prepared once: preparing a request takes longer than sending a batch.
        given = {"Content-Type": "application/json", "User-Agent": f"mitmproxy-moesif/{__version__}", **headers}
        self._request = self._session.prepare_request(requests.Request("POST", url, headers=given))
        self._connection: dict[str, Any] = dict(self._session.merge_environment_settings(url, {}, None, None, None))

    def post(self, body: bytes) -> requests.Response:
        """The response, already read. Raises `OSError`, `requests.RequestException`; its `Timeout` at the deadline."""
        began = time.monotonic()
        try:
            return self._post(body)
        except (requests.RequestException, OSError) as error:
            if time.monotonic() - began >= self._seconds and not isinstance(error, requests.Timeout):
                raise requests.ReadTimeout from error  # the deadline closed the connection
            raise

    def _post(self, body: bytes) -> requests.Response:
        request = self._request.copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        options = {**self._connection, "stream": True}
        with self._session.deadline(self._seconds):
            response = self._session.get_adapter(self._url).send(request, timeout=self._timeout, **options)
            self.answer = _drain(response)
        return response

    def close(self) -> None:
        self._session.close()


def _drain(response: requests.Response) -> bytes:
    """Read the response's body so that the connection can be reused; close the connection if the body is too long."""
    answer = b""
    with suppress(DecodeError):
        answer = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
    if response.raw.closed or not response.raw.isclosed():
        response.close()
    return answer

"""Sends batches of records to Akto's ingest service: POST {akto_service_url}/api/ingestData."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import requests

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict
from mitmproxy_moesif.delivery.receivers.http import Poster
from mitmproxy_moesif.web.session import causes, network_reason

MOST_CONNECT, MOST_SEND, MOST_READ = 3.0, 5.0, 3.0
"""Upper limits in seconds for each part of a call, regardless of the settings."""

DEADLINE = MOST_CONNECT + MOST_SEND + MOST_READ

REFUSED = frozenset({400, 413, 422})
UNAUTHORIZED = frozenset({401, 403})


class AktoReceiver:
    """For one thread."""

    def __init__(self, target: AktoTarget) -> None:
        self._url = f"{target.url}/api/ingestData"
        key = target.api_key
        headers = {"x-api-key": key, "Authorization": key} if key else {}
        connect, send, read, all_of_it = (
            min(target.timeout, most) for most in (MOST_CONNECT, MOST_SEND, MOST_READ, DEADLINE)
        )
        self.caps = connect, send, read, all_of_it
        self._poster = Poster(self._url, headers, *self.caps)

    def send(self, events: Sequence[bytes]) -> Outcome:
        """Send encoded records."""
        try:
            response = self._poster.post(b'{"batchData":[' + b",".join(events) + b"]}")
        except (requests.RequestException, OSError) as error:
            return Outcome(Verdict.UNAVAILABLE, _reason(error, self._url))
        status = response.status_code
        if status == 200:
            return Outcome(Verdict.ACCEPTED)
        if status in UNAUTHORIZED:
            return Outcome(Verdict.UNAUTHORIZED, f"ingest failed (status {status}): check akto_api_key")
        verdict = Verdict.REFUSED if status in REFUSED else Verdict.UNAVAILABLE
        return Outcome(verdict, f"ingest failed (status {status})")

    def close(self) -> None:
        self._poster.close()


def _reason(error: BaseException, url: str) -> str:
    why = network_reason(error, url)
    return f"connect failed (Akto unreachable): {why}" if _never_connected(error) else f"ingest failed: {why}"


def _never_connected(error: BaseException | None) -> bool:
    kinds = (requests.ConnectTimeout, ConnectionRefusedError, socket.gaierror)
    return any(isinstance(one, kinds) for one in causes(error))

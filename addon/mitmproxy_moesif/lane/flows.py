"""Creates mitmproxy's flows and messages from data that is known to be valid.

mitmproxy's constructors check and convert every field. `tests/lane/test_flows.py` compares the results with theirs.
"""

from __future__ import annotations

import os
import time
from typing import Any

from mitmproxy import http
from mitmproxy.connection import Client, Server

from mitmproxy_moesif.event.exchange import Fields

AT_ONCE = 256
"""Identifiers created with one system call."""

VARIANTS = "89ab"


class Identifiers:
    """Random UUIDs (version 4), as text."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def next(self) -> str:
        if not self._made:
            random = os.urandom(16 * AT_ONCE).hex()
            self._made = [identifier(random[start : start + 32]) for start in range(0, len(random), 32)]
        return self._made.pop()


def identifier(digits: str) -> str:
    variant = VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_flow(identifier: str, client: Client, server: Server, request: http.Request) -> http.HTTPFlow:
    flow = http.HTTPFlow.__new__(http.HTTPFlow)
    flow.__dict__ = {
        "id": identifier,
        "client_conn": client,
        "server_conn": server,
        "live": True,
        "timestamp_created": time.time(),
        "intercepted": False,
        "_resume_event": None,
        "_backup": None,
        "marked": "",
        "is_replay": None,
        "metadata": {},
        "comment": "",
        "request": request,
    }
    return flow


def new_request(
    host: str,
    port: int,
    method: bytes,
    path: bytes,
    version: bytes,
    fields: Fields,
    begun: float,
    scheme: bytes = b"http",
) -> http.Request:
    request = http.Request.__new__(http.Request)
    request.data = new_data(http.RequestData, version, fields, begun)
    request.data.__dict__ |= {
        "host": host,
        "port": port,
        "method": method,
        "scheme": scheme,
        "authority": b"",
        "path": path,
    }
    return request


def new_response(version: bytes, status: int, reason: bytes, fields: Fields) -> http.Response:
    response = http.Response.__new__(http.Response)
    response.data = new_data(http.ResponseData, version, fields, time.time())
    response.data.__dict__ |= {"status_code": status, "reason": reason}
    return response


def new_data(kind: Any, version: bytes, fields: Fields, begun: float) -> Any:
    headers = http.Headers.__new__(http.Headers)
    headers.fields = fields
    data = kind.__new__(kind)
    data.__dict__ = {
        "http_version": version,
        "headers": headers,
        "content": None,
        "trailers": None,
        "timestamp_start": begun,
        "timestamp_end": None,
    }
    return data

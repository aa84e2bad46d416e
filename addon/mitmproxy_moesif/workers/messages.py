"""An Admin API request and its response as sent between supervisor and workers: JSON, with bodies in base64."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from mitmproxy_moesif.web.handlers import JsonHandler

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class Request:
    """A request; `path` includes the query, unchanged."""

    method: str
    path: str
    content_type: str = ""
    accept: str = ""
    body: bytes = b""

    @property
    def is_change(self) -> bool:
        return self.method not in SAFE

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "body": b64encode(self.body).decode()}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Request:
        return cls(**{**said, "body": b64decode(said["body"])})


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `headers` exclude those about the connection, the body's length, the date and the server."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @classmethod
    def of(cls, status: int, content: object) -> Answer:
        """A JSON response."""
        return cls(status, (("Content-Type", JsonHandler.media_type),), orjson.dumps(content) + b"\n")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "body": b64encode(self.body).decode()}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Answer:
        headers = tuple((name, value) for name, value in said["headers"])
        return cls(said["status"], headers, b64decode(said["body"]))

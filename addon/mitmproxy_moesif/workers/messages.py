"""A request to the Admin API and its answer, as they go between supervisor and workers: JSON, bodies as base64."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class Request:
    """`path` with its query, as it came."""

    method: str
    path: str
    content_type: str = ""
    accept: str = ""
    body: bytes = b""

    @property
    def is_change(self) -> bool:
        return self.method not in SAFE

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "content_type": self.content_type,
            "accept": self.accept,
            "body": b64encode(self.body).decode(),
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Request:
        return cls(**{**said, "body": b64decode(said["body"])})


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` without those about the connection, the length of the body, or who answers."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "headers": [list(header) for header in self.headers],
            "body": b64encode(self.body).decode(),
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Answer:
        headers = tuple((name, value) for name, value in said["headers"])
        return cls(said["status"], headers, b64decode(said["body"]))

"""A plain snapshot of one exchange, which the mitmproxy hooks create and the event is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Fields = tuple[tuple[bytes, bytes], ...]
"""Headers as received: order, case and duplicates kept."""


class Payload(NamedTuple):
    """The captured part of one body: its chunks, or the reason why there is none.

    `omitted` is `too_large` (over the limit) or `incomplete` (the exchange ended before the body did); a body is sent
    completely or not at all. `size` is the size in bytes of a body that is too large.
    """

    chunks: Sequence[bytes]
    omitted: str | None = None
    size: int | None = None

    def content(self) -> bytes | None:
        """The body's bytes as transferred; None if they were not kept."""
        return b"".join(self.chunks) if self.omitted is None else None


NO_BODY = Payload(())


@dataclass(slots=True)
class Exchange:
    """One request and its response, by reference. Times are seconds since 1970; `status` is None without a response.

    `authority` is the host as the client sent it, `target` path and query as sent; `status` is what the client got,
    which may differ from what the upstream sent. `kong` has names from Kong's configuration.
    """

    transaction_id: str
    scheme: str
    authority: str
    method: str
    target: bytes
    http_version: str
    peer: str
    started: float
    request_headers: Fields
    request_body: Payload = NO_BODY
    ended: float | None = None
    status: int | None = None
    response_headers: Fields = ()
    response_body: Payload = NO_BODY
    response_trailers: Fields = ()
    blocked_by: str | None = None
    kong: dict[str, object] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)
    size: int = 0


class RoutableRequest(NamedTuple):
    """The parts of a request that decide its route. `fields` are its headers; `authority` is empty if it has none."""

    method: bytes
    target: bytes
    authority: bytes
    fields: Fields
    peer: str
    scheme: str
    sni: str | None

"""What the proxy hands over at once, and keeps until it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mitmproxy_moesif.background.channel import packed, unpacked


class Frame(NamedTuple):
    """Exchanges that were handed over: how many, about how many bytes they held, and what was written."""

    events: int
    size: int
    data: bytes


def one_by_one(frame: Frame) -> Iterator[Frame]:
    """The same exchanges, each as a frame of its own."""
    _, exchanges = unpacked(frame.data)
    for exchange in exchanges:
        yield Frame(1, frame.size // frame.events, packed(("exchanges", [exchange])))

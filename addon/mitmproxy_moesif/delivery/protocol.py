"""The messages between the proxy and the delivery process, and their format on the socket.

A message is a length and a marshalled tuple of plain values: both ends run the same interpreter. A frame is a message
with exchanges, which the proxy keeps until the server reports them as settled.
"""

from __future__ import annotations

import marshal
import select
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import SecretStr

from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.api import Condition, SpoolCondition, Unsent
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.event.exchange import NO_BODY, Exchange, Payload

_LENGTH = struct.Struct("!Q")
_VERSION = 2  # of marshal's format: later ones look for equal objects, which takes longer than writing them twice
_READ = 1 << 18

type Message = tuple[Any, ...]


def packed(message: Message) -> bytes:
    """Plain values only: None, bool, int, float, str, bytes, and tuples, lists and dicts of them."""
    content = marshal.dumps(message, _VERSION)
    return _LENGTH.pack(len(content)) + content


def unpacked(data: bytes) -> Message:
    """The message that `packed` wrote."""
    return next(_complete(bytearray(data)))


def messages(sock: socket.socket) -> Iterator[Message]:
    """Each message received until the other side closes the socket. An incomplete last message is discarded."""
    buffer = bytearray()
    with suppress(OSError):
        while data := _receive(sock):
            buffer += data
            yield from _complete(buffer)


def _receive(sock: socket.socket) -> bytes:
    """Blocks until data arrives, even if an event loop (such as uvloop) has made the socket non-blocking."""
    while True:
        try:
            return sock.recv(_READ)
        except BlockingIOError:
            readable = select.poll()
            readable.register(sock, select.POLLIN)
            readable.poll()


def _complete(buffer: bytearray) -> Iterator[Message]:
    """The complete messages at the start of `buffer`; removes them from it."""
    position = 0
    while len(buffer) - position >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, position)
        end = position + _LENGTH.size + length
        if len(buffer) < end:
            break
        yield marshal.loads(memoryview(buffer)[position + _LENGTH.size : end])  # noqa: S302 - our own process wrote it
        position = end
    del buffer[:position]


type Plain = tuple[Any, ...]
"""An exchange as a tuple; its size is the last item."""


class Frame(NamedTuple):
    """Exchanges that were handed over: the first one's number, their count, approximate bytes, and the encoded message.

    `since` is when the oldest was captured, in monotonic seconds.
    """

    first: int
    events: int
    size: int
    since: float
    data: bytes

    @classmethod
    def of(cls, first: int, exchanges: Sequence[tuple[int, Plain]], since: float) -> Frame:
        """Make a frame from exchanges, each given with the key of its instance."""
        size = sum(plain[-1] for _, plain in exchanges)
        return cls(first, len(exchanges), size, since, packed(("exchanges", first, exchanges)))

    @property
    def last(self) -> int:
        return self.first + self.events - 1

    @property
    def only_key(self) -> int:
        """The instance key of the frame's only exchange."""
        _, _, ((key, _),) = unpacked(self.data)
        return int(key)

    def one_by_one(self) -> list[Frame]:
        """The same exchanges, each in its own frame."""
        _, first, exchanges = unpacked(self.data)
        return [Frame.of(number, [exchange], self.since) for number, exchange in enumerate(exchanges, first)]

    def after(self, number: int) -> Frame:
        """The exchanges with numbers above `number`."""
        _, first, exchanges = unpacked(self.data)
        return Frame.of(number + 1, exchanges[number + 1 - first :], self.since)


def from_exchange(exchange: Exchange) -> Plain:
    request, response = exchange.request_body, exchange.response_body
    return (
        exchange.transaction_id,
        exchange.scheme,
        exchange.authority,
        exchange.method,
        exchange.target,
        exchange.http_version,
        exchange.peer,
        exchange.started,
        exchange.request_headers,
        None if request is NO_BODY else tuple(request),
        exchange.ended,
        exchange.status,
        exchange.response_headers,
        None if response is NO_BODY else tuple(response),
        exchange.response_trailers,
        exchange.blocked_by,
        exchange.kong,
        exchange.metadata,
        exchange.size,
    )


def to_exchange(plain: Plain) -> Exchange:
    exchange = Exchange(*plain)
    request, response = plain[9], plain[13]
    exchange.request_body = NO_BODY if request is None else Payload(*request)
    exchange.response_body = NO_BODY if response is None else Payload(*response)
    return exchange


def from_settings(settings: Settings) -> dict[str, Any]:
    """The settings that were given, for `parse_settings`. Secrets are in clear: the sending process needs them."""
    given = ((name, settings.__dict__[name]) for name in settings.model_fields_set)
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in given}


def from_condition(condition: Condition) -> dict[str, Any]:
    return asdict(condition)


def to_condition(plain: Mapping[str, Any]) -> Condition:
    spool = plain["spool"]
    health = {name: Health(**values) for name, values in plain["health"].items()}
    return Condition(
        reading=Reading.of(plain["reading"]),
        health=health,
        oldest_at=plain["oldest_at"],
        spool=SpoolCondition(**spool) if spool is not None else None,
        memory_bytes=plain["memory_bytes"],
        trouble=plain["trouble"],
        unsent={name: Unsent(**values) for name, values in plain["unsent"].items()},
    )

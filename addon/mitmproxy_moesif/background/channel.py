"""Messages over a stream socket between two processes of the same interpreter: a length and a marshalled tuple."""

from __future__ import annotations

import marshal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_LENGTH = struct.Struct("!Q")
_VERSION = 2  # of marshal's format: later ones look for equal objects, which takes longer than writing them twice
_READ = 1 << 18

type Message = tuple[Any, ...]


def packed(message: Message) -> bytes:
    """Plain values only: None, bool, int, float, str, bytes, and tuples, lists and dicts of them."""
    content = marshal.dumps(message, _VERSION)
    return _LENGTH.pack(len(content)) + content


def unpacked(data: bytes) -> Message:
    """What was packed."""
    return next(_complete(bytearray(data)))


def messages(sock: socket.socket) -> Iterator[Message]:
    """Each message that comes, until the other side is gone. What it had begun to say then is lost."""
    buffer = bytearray()
    with suppress(OSError):
        while data := sock.recv(_READ):
            buffer += data
            yield from _complete(buffer)


def _complete(buffer: bytearray) -> Iterator[Message]:
    """The whole messages at the start of `buffer`, which are taken out of it."""
    position = 0
    while len(buffer) - position >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, position)
        end = position + _LENGTH.size + length
        if len(buffer) < end:
            break
        yield marshal.loads(memoryview(buffer)[position + _LENGTH.size : end])  # noqa: S302 - our own process wrote it
        position = end
    del buffer[:position]

"""Decodes Content-Encoding within a size limit: returns the decoded body, or why there is none.

The limit is essential: a few kilobytes of gzip, brotli or zstd can decode to gigabytes. So every decoder here is asked
for at most one byte more than the limit and then stops. Its only other memory is a fixed buffer (at most 16 MB,
brotli's window). Decoders that copy their remaining input are fed in slices, since many tiny members in one body would
otherwise take quadratic time.
"""

from __future__ import annotations

import zlib
from enum import Enum
from typing import Final

import brotli  # type: ignore[import-untyped]  # ships no types
import zstandard


class Failure(Enum):
    """Why there are no decoded bytes."""

    TOO_LARGE = "too_large"
    UNDECODABLE = "undecodable"


_GZIP_MAGIC: Final = b"\x1f\x8b"
_SLICE: Final = 4096
_READ: Final = 65536
# Zstd frames with a larger window are not allowed in HTTP (RFC 9659), and the sender would choose our memory use.
_ZSTD_WINDOW: Final = 1 << 23
# Each layer may cost up to the limit again. Nobody uses more than two; a header that names thousands is an attack.
_MAX_LAYERS: Final = 5
# For a brotli version that cannot limit its output: a command of a few bytes may decode to megabytes.
_BROTLI_SIP: Final = 16


def layers(content_encoding: str) -> list[str]:
    """The codings of a Content-Encoding value in the order in which they were applied, without `identity`."""
    names = (name.strip().lower() for name in content_encoding.split(","))
    return [name for name in names if name and name != "identity"]


def decode(raw: bytes, content_encoding: str, limit: int) -> bytes | Failure:
    """Decode every coding of `content_encoding`, the last applied first.

    Supports gzip (also with several members), deflate (zlib format and raw), br, zstd. UNDECODABLE for an unknown
    coding, or a broken or truncated stream; TOO_LARGE as soon as any layer exceeds `limit` bytes.
    """
    applied = layers(content_encoding)
    if len(applied) > _MAX_LAYERS:
        return Failure.UNDECODABLE
    for name in reversed(applied):
        if not raw:
            return Failure.UNDECODABLE
        decoded = _undo(name, raw, limit)
        if isinstance(decoded, Failure):
            return decoded
        raw = decoded
    return raw


def _undo(name: str, raw: bytes, limit: int) -> bytes | Failure:
    try:
        match name:
            case "gzip" | "x-gzip":
                return _gunzip(raw, limit)
            case "deflate":
                return _inflate(raw, limit)
            case "br":
                return _unbrotli(raw, limit)
            case "zstd":
                return _unzstd(raw, limit)
    except (zlib.error, brotli.error, zstandard.ZstdError):
        pass
    return Failure.UNDECODABLE


def _gunzip(raw: bytes, limit: int) -> bytes | Failure:
    """Decode all members. Ignores anything after the last one, as browsers do."""
    out = bytearray()
    view = memoryview(raw)
    position = 0
    while raw[position : position + 2] == _GZIP_MAGIC:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not member.eof:
            piece = view[position : position + _SLICE]
            if not piece:
                return Failure.UNDECODABLE
            out += member.decompress(piece, limit + 1 - len(out))
            if len(out) > limit:
                return Failure.TOO_LARGE
            position += len(piece) - len(member.unused_data)
    return bytes(out) if position else Failure.UNDECODABLE


def _inflate(raw: bytes, limit: int) -> bytes | Failure:
    """`deflate` means the zlib format, but some servers send it without header and checksum; browsers accept both."""
    for wbits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(wbits)
        try:
            out = stream.decompress(raw, limit + 1)
        except zlib.error:
            continue
        if len(out) > limit:
            return Failure.TOO_LARGE
        if stream.eof:
            return out
    return Failure.UNDECODABLE


def _unbrotli(raw: bytes, limit: int) -> bytes | Failure:
    stream = brotli.Decompressor()
    if not hasattr(stream, "can_accept_more_data"):
        return _unbrotli_unbounded(stream, raw, limit)
    out = bytearray(stream.process(raw, output_buffer_limit=limit + 1))
    while len(out) <= limit and not stream.is_finished():
        more = stream.process(b"", output_buffer_limit=limit + 1 - len(out))
        if not more:
            return Failure.UNDECODABLE
        out += more
    return bytes(out) if len(out) <= limit else Failure.TOO_LARGE


def _unbrotli_unbounded(stream: brotli.Decompressor, raw: bytes, limit: int) -> bytes | Failure:
    """Brotli before 1.2 returns everything that its input decodes to at once, so the input is fed in tiny slices."""
    out = bytearray()
    for position in range(0, len(raw), _BROTLI_SIP):
        out += stream.process(raw[position : position + _BROTLI_SIP])
        if len(out) > limit:
            return Failure.TOO_LARGE
    return bytes(out) if stream.is_finished() else Failure.UNDECODABLE


def _unzstd(raw: bytes, limit: int) -> bytes | Failure:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    out = bytearray()
    with decompressor.stream_reader(raw, read_across_frames=True) as reader:
        while chunk := reader.read(min(_READ, limit + 1 - len(out))):
            out += chunk
            if len(out) > limit:
                return Failure.TOO_LARGE
    return bytes(out) if _zstd_is_complete(decompressor, raw) else Failure.UNDECODABLE


def _zstd_is_complete(decompressor: zstandard.ZstdDecompressor, raw: bytes) -> bool:
    """Whether the last frame is complete. The bounded reader cannot tell; here the output is known to be small."""
    position = 0
    while position < len(raw):
        frame = decompressor.decompressobj()
        while not frame.eof:
            piece = raw[position : position + _SLICE]
            if not piece:
                return False
            frame.decompress(piece)
            position += len(piece) - len(frame.unused_data)
    return True

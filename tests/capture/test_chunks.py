"""Bodies in chunks: as h11 reads them where it takes them, and never in more time than they are long."""

from __future__ import annotations

import time
from typing import Any

import h11
import pytest
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.capture.chunks import MOST, ChunkReader

TOKENS = [
    *(b"0", b"5", b"A", b"00", b"ffffffffffffffffff", b"x", b";", b";a=b", b" ", b"\t", b"-", b"+", b"_"),
    *(
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"hello",
        b"hellohello",
        b"X: y",
        b"X:",
        b": y",
        b"Host: h",
        b"\0",
        b"\xff",
    ),
]


def read(reader: Any, whole: bytes) -> tuple[bytes, list[tuple[bytes, bytes]] | None, bytes | None] | None:
    """Content, trailers and what is behind them, both None where the end has not come; None where it is refused."""
    buffer, content = ReceiveBuffer(), b""
    buffer += whole
    try:
        while (event := reader(buffer)) is not None:
            if isinstance(event, h11.EndOfMessage):
                trailers = reader.trailers.fields if isinstance(reader, ChunkReader) and reader.trailers else ()
                stock = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
                return content, stock or list(trailers), bytes(buffer)
            content += event.data
    except h11.ProtocolError:
        return None
    return content, None, None


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join))
def test_what_is_taken_is_read_as_by_h11(whole: bytes) -> None:
    ours = read(ChunkReader(), whole)
    stock = read(ChunkedReader(), whole)
    if ours is None or ours[1] is None:
        return
    assert stock is not None
    assert (ours[0], ours[2]) == (stock[0], stock[2])
    assert ours[1] == [field for field in stock[1] or [] if field[0].lower() != b"host"]


@pytest.mark.parametrize(
    "line",
    [
        b"5;" + b" " * (MOST - 10) + b"\n\r\n",
        b"5;" + b" " * (2 * MOST),
        b"0\r\nX:" + b" " * (MOST - 10) + b"\x0b\r\n\r\n",
        b"0\r\nX: " + b"a \t" * (MOST // 4) + b"\0\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * MOST,
    ],
)
def test_no_line_takes_more_time_than_it_is_long(line: bytes) -> None:
    """h11 takes from seconds to minutes for each."""
    before = time.process_time()
    read(ChunkReader(), line)
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    "whole",
    [
        *(
            b"5;a\nb\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\r\nhello\r\n",
            b"5\r\nhello\n0\r\n\r\n",
        ),
        *(b"0\r\nX: a\nY: b\r\n\r\n", b"0\r\nX: a\r\n b\r\n\r\n", b"0\n\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\n: y\r\n\r\n"),
        *(b"10000000000000005\r\nhello\r\n", b"0x5\r\nhello", b"5_0\r\nhello", b" 5\r\nhello", b"\r\n"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(whole: bytes) -> None:
    assert read(ChunkReader(), whole) is None

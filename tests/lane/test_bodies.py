"""Bodies come out whole, however they come in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.lane.bodies import END, Body, Chunked, Fixed, UntilClose
from tests.support import wire

NEXT = b"GET / HTTP/1.1\r\n"


def read(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    """The content, and what came behind it; None where the end has not come."""
    content = b""
    for number, piece in enumerate(pieces):
        body.feed(piece)
        while (part := body.next()) is not None:
            if part is END:
                return content, body.rest() + b"".join(pieces[number + 1 :])
            content += part
    return content, None


@st.composite
def cuts(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    return [whole[start:end] for start, end in itertools.pairwise([0, *at, len(whole)]) if start < end]


@given(st.data(), st.binary(min_size=1, max_size=100))
def test_a_body_of_known_length(data: st.DataObject, content: bytes) -> None:
    assert read(Fixed(len(content)), data.draw(cuts(content + NEXT))) == (content, NEXT)


@given(st.data(), st.lists(st.binary(min_size=1, max_size=100), max_size=4), st.booleans())
def test_a_body_in_chunks(data: st.DataObject, chunks: list[bytes], asked: bool) -> None:
    body = Chunked()
    whole = wire.encode_chunks(*chunks)
    pieces = data.draw(cuts(whole + NEXT))
    if asked:  # it may be looked whether it is whole before it is read
        first = pieces.pop(0)
        body.feed(first)
        assert body.is_whole() is (len(first) >= len(whole))
    assert read(body, [b"", *pieces]) == (b"".join(chunks), NEXT)


def test_trailers_come_with_the_end_but_for_those_that_frame() -> None:
    body = Chunked()
    body.feed(b"1\r\na\r\n0\r\nX: 1\r\nContent-Length: 5\r\n\r\n")
    assert body.next() == b"a"
    assert body.next() is END
    assert body.trailers is not None
    assert body.trailers.fields == ((b"X", b"1"),)


def test_a_body_that_ends_with_its_connection() -> None:
    body = UntilClose()
    assert read(body, [b"a", b"b"]) == (b"ab", None)
    body.end_of_stream()
    assert body.next() is END


@pytest.mark.parametrize("framing", [b"x\r\n", b"-1\r\n", b"1;\n\r\n", b"1\r\nab\r\n", b"0x1\r\n", b"\r\n"])
def test_broken_chunks_are_an_error(framing: bytes) -> None:
    with pytest.raises(ValueError, match="HTTP/1 protocol error"):
        read(Chunked(), [framing + b"more\r\n\r\n"])


@pytest.mark.parametrize("body", [Fixed(3), Chunked()])
def test_a_body_that_is_cut_is_an_error(body: Body) -> None:
    read(body, [b"2\r\n"[:2]])
    with pytest.raises(ValueError, match="peer closed connection"):
        body.end_of_stream()

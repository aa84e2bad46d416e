"""Messages arrive whole and in order, however the stream is cut."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.protocol import messages, packed

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def received(stream: bytes, cuts: list[int]) -> list[Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def write() -> None:
            start = 0
            for end in [*sorted(cuts), len(stream)]:
                theirs.sendall(stream[start:end])
                start = end
            theirs.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        found = list(messages(ours))
        writer.join()
    return found


@given(st.lists(st.lists(PLAIN).map(tuple), max_size=5), st.data())
def test_what_is_packed_comes_out_the_same(given: list[tuple[Any, ...]], data: st.DataObject) -> None:
    stream = b"".join(map(packed, given))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5))
    assert received(stream, cuts) == given


def test_a_message_larger_than_any_buffer() -> None:
    large = ("exchanges", b"x" * 5_000_000)
    assert received(packed(large) + packed(("close",)), []) == [large, ("close",)]


@pytest.mark.parametrize("missing", [1, 20])
def test_a_message_whose_end_never_came_is_none(missing: int) -> None:
    stream = packed(("one",)) + packed(("two", b"x" * 100))
    assert received(stream[:-missing], []) == [("one",)]


def test_a_socket_that_does_not_block_is_waited_for() -> None:
    """uvloop makes one of the socket that it waits to write to: the reports come on it, too."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        asked = threading.Event()
        found: list[Any] = []

        def listen() -> None:
            asked.set()
            found.extend(messages(ours))

        listening = threading.Thread(target=listen)
        listening.start()
        assert asked.wait(10)
        for number in range(3):
            theirs.sendall(packed((number,)))
        theirs.shutdown(socket.SHUT_WR)
        listening.join()
    assert found == [(0,), (1,), (2,)]


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        packed((object(),))

"""The path as Kong's router sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.normalize import RESERVED, from_text, normalize, request_path, to_text

OCTETS = st.integers(0, 255).map(lambda octet: b"%%%02x" % octet)
PIECES = st.one_of(
    st.sampled_from([b"/", b"//", b".", b"..", b"/./", b"/../", b"%2e", b"%2F", b"a", b"%41", b"?", b"~"]), OCTETS
)
PATHS = st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces))


@pytest.mark.parametrize(
    ("given_path", "normalized"),
    [
        (b"", b""),
        (b"/", b"/"),
        (b"*", b"*"),
        (b"/a/b", b"/a/b"),
        (b"/a/", b"/a/"),
        (b"//a///b//", b"/a/b/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/.", b"/"),
        (b"/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/a//../b", b"/b"),
        (b"/...", b"/..."),
        (b"/a/.b/..c", b"/a/.b/..c"),
        (b"/%2e%2E/a", b"/a"),
        (b"/a%2f..%2fb", b"/a%2F..%2Fb"),
        (b"/%6Frders/%7e", b"/orders/~"),
        (b"/caf%c3%a9", b"/caf\xc3\xa9"),
        (b"/%20%22%3c", b'/ "<'),
        (b"/%25%2e", b"/%25."),
        (b"/100%", b"/100%"),
        (b"/%zz", b"/%zz"),
        (b"../a", b"a"),
        (b"./../..", b""),
        (b"a/../b", b"/b"),
    ],
)
def test_a_path_is_normalized(given_path: bytes, normalized: bytes) -> None:
    assert normalize(given_path) == normalized


@pytest.mark.parametrize("octet", sorted(RESERVED))
def test_what_means_something_stays_encoded_in_upper_case(octet: int) -> None:
    assert normalize(b"/%%%02x" % octet) == b"/%%%02X" % octet


@given(PATHS)
def test_normalizing_twice_changes_nothing(path: bytes) -> None:
    assert normalize(normalize(path)) == normalize(path)


@given(PATHS)
def test_no_empty_and_no_dot_segment_is_left(path: bytes) -> None:
    assert not {b"", b".", b".."}.intersection(normalize(path).split(b"/")[1:-1])


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a?b=/c", b"/a"), ("/a", b"/a"), ("/?x", b"/"), ("?x", b"?x"), ("/a?b?c", b"/a"), ("/a/../b?x=%2e", b"/b")],
)
def test_the_query_is_cut_off_before_anything_else(target: str, path: bytes) -> None:
    assert request_path(target) == path


def test_octets_that_are_no_utf8_survive_the_way_in_and_can_be_shown() -> None:
    assert from_text("/\udcff") == b"/\xff"
    assert to_text(b"/\xff") == "/\ufffd"

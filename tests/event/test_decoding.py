"""Content-Encoding undone: every coding, what is broken, and a bound that no bomb passes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.event.decoding import Failure, decode, layers

LIMIT = 100_000


def bare_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("br", brotli.compress),
    ("zstd", zstd),
]
encoders = st.sampled_from(ENCODERS)


class OldBrotli:
    """Brotli before 1.2: no limit, no `can_accept_more_data`."""

    def __init__(self) -> None:
        self._stream = BrotliDecompressor()

    def process(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data))

    def is_finished(self) -> bool:
        return bool(self._stream.is_finished())


BrotliDecompressor = brotli.Decompressor


@given(data=st.binary(max_size=3000), applied=st.lists(encoders, max_size=3))
def test_what_was_encoded_is_decoded_from_the_right(
    data: bytes, applied: list[tuple[str, Callable[[bytes], bytes]]]
) -> None:
    raw = data
    for _, encode in applied:
        raw = encode(raw)
    assert decode(raw, ", ".join(name for name, _ in applied), LIMIT) == data


@given(data=st.binary(min_size=1, max_size=2000), encoder=encoders, share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_stream_does_not_decode(
    data: bytes, encoder: tuple[str, Callable[[bytes], bytes]], share: float
) -> None:
    name, encode = encoder
    raw = encode(data)
    assert decode(raw[: int(share * len(raw))], name, LIMIT) is Failure.UNDECODABLE


@given(raw=st.binary(max_size=200), name=st.sampled_from([name for name, _ in ENCODERS]) | st.text(max_size=30))
def test_no_bytes_and_no_coding_raise(raw: bytes, name: str) -> None:
    assert isinstance(decode(raw, name, 50), bytes | Failure)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("identity", []),
        ("gzip", ["gzip"]),
        (" GZip ,, Br,identity", ["gzip", "br"]),
    ],
)
def test_layers_in_the_order_of_application(value: str, expected: list[str]) -> None:
    assert layers(value) == expected


@pytest.mark.parametrize("value", ["compress", "utf-8", "gzip, rot13", "gzip;q=1", ", ".join(["gzip"] * 6)])
def test_an_unknown_coding_or_too_many_do_not_decode(value: str) -> None:
    raw = b"hello"
    for _ in range(6):
        raw = gzip.compress(raw)
    assert decode(raw, value, LIMIT) is Failure.UNDECODABLE


def test_identity_leaves_the_bytes() -> None:
    assert decode(b"hello", "identity", LIMIT) == b"hello"


def test_plain_bytes_under_a_coding_do_not_decode() -> None:
    for name in ("gzip", "deflate", "br", "zstd"):
        assert decode(b'{"plain": true}', name, LIMIT) is Failure.UNDECODABLE


@pytest.mark.parametrize("garbage", [b"\0\0\0\0", b"garbage", b"\x1f"])
def test_gzip_members_follow_each_other_and_garbage_after_them_is_ignored(garbage: bytes) -> None:
    assert decode(gzip.compress(b"one ") + gzip.compress(b"two") + garbage, "gzip", LIMIT) == b"one two"


def test_a_broken_second_member_does_not_decode() -> None:
    assert decode(gzip.compress(b"one ") + gzip.compress(b"two")[:-3], "gzip", LIMIT) is Failure.UNDECODABLE


def test_a_wrong_checksum_does_not_decode() -> None:
    raw = bytearray(gzip.compress(b"hello"))
    raw[-8] ^= 1
    assert decode(bytes(raw), "gzip", LIMIT) is Failure.UNDECODABLE


def test_garbage_after_deflate_is_ignored() -> None:
    assert decode(zlib.compress(b"hello") + b"garbage", "deflate", LIMIT) == b"hello"


def test_zstd_frames_follow_each_other_and_the_last_must_be_whole() -> None:
    assert decode(zstd(b"one ") + zstd(b"two"), "zstd", LIMIT) == b"one two"
    assert decode(zstd(b"one ") + zstd(b"two")[:-2], "zstd", LIMIT) is Failure.UNDECODABLE


def test_a_zstd_window_beyond_what_http_allows_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    raw = compressor.compress(b"hello") + compressor.flush()
    assert decode(raw, "zstd", LIMIT) is Failure.UNDECODABLE


@pytest.mark.parametrize(("name", "encode"), ENCODERS)
def test_the_limit_is_exact(name: str, encode: Callable[[bytes], bytes]) -> None:
    data = b"0123456789" * 500
    assert decode(encode(data), name, 5000) == data
    assert decode(encode(data), name, 4999) is Failure.TOO_LARGE


def test_the_limit_holds_over_several_members() -> None:
    assert decode(gzip.compress(b"x" * 60) * 2, "gzip", 120) == b"x" * 120
    assert decode(gzip.compress(b"x" * 60) * 2, "gzip", 119) is Failure.TOO_LARGE


def test_a_limit_beyond_all_memory_costs_nothing() -> None:
    for name, encode in ENCODERS:
        assert decode(encode(b"hello"), name, 2**53) == b"hello"


def _bomb(compressor: Callable[[bytes], bytes], flush: Callable[[], bytes]) -> bytes:
    block = bytes(1 << 20)
    return b"".join([*(compressor(block) for _ in range(1024)), flush()])


def bombs() -> dict[str, bytes]:
    gzipper = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    brotlier = brotli.Compressor(quality=1)
    zstder = zstandard.ZstdCompressor(level=1).compressobj()
    return {
        "gzip": _bomb(gzipper.compress, gzipper.flush),
        "br": _bomb(brotlier.process, brotlier.finish),
        "zstd": _bomb(zstder.compress, zstder.flush),
    }


def test_a_gigabyte_bomb_costs_about_the_limit() -> None:
    for name, raw in bombs().items():
        tracemalloc.start()
        try:
            assert decode(raw, name, LIMIT) is Failure.TOO_LARGE
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10 * LIMIT, name


def test_a_bomb_inside_a_bomb_is_stopped_too() -> None:
    inner = gzip.compress(bytes(10_000_000))
    assert decode(gzip.compress(inner), "gzip, gzip", LIMIT) is Failure.TOO_LARGE


def test_a_brotli_without_an_output_limit_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brotli, "Decompressor", OldBrotli)
    raw = brotli.compress(b"0123456789" * 500)
    assert decode(raw, "br", 5000) == b"0123456789" * 500
    assert decode(raw, "br", 4999) is Failure.TOO_LARGE
    assert decode(raw[:-1], "br", 5000) is Failure.UNDECODABLE

"""What the collector takes, and what it refuses with which status."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.local.intake import (
    MAX_EVENT_BYTES,
    RefusedError,
    read_batch,
    read_one_or_many,
)
from tests.local.events import encode, make_event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def bare_deflate(content: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(content) + encoder.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " Deflate": bare_deflate,
}


def refusal(body: bytes, encoding: str = "") -> int:
    with pytest.raises(RefusedError) as raised:
        read_batch(body, encoding)
    assert "\n" not in raised.value.reason
    return raised.value.status


class TestWhatIsTaken:
    @given(bodies=st.lists(JSON, max_size=5), indent=st.none() | st.integers(0, 3))
    def test_events_keep_the_very_text_they_came_in(self, bodies: list[Any], indent: int | None) -> None:
        events = [make_event(number, metadata=body) for number, body in enumerate(bodies)]
        sent = [json.dumps(event, indent=indent, ensure_ascii=False) for event in events]

        received = read_batch((" [ " + " ,\n".join(sent) + "\t] ").encode("utf-8", "replace"))

        assert [event.raw.encode() for event in received] == [text.encode("utf-8", "replace") for text in sent]

    @pytest.mark.parametrize("number", ["1.10", "1e400", "123456789012345678901234567890", "-0.0", "9" * 5000])
    def test_numbers_no_machine_type_holds(self, number: str) -> None:
        text = encode(make_event(metadata="?")).decode().replace('"?"', number)
        assert f'"metadata": {number}' in read_batch(text.encode())[0].raw

    @pytest.mark.parametrize("encoding", ENCODERS)
    def test_content_encodings(self, encoding: str) -> None:
        (event,) = read_batch(ENCODERS[encoding](encode(make_event(7))), encoding)
        assert event.transaction_id == "id-7"

    def test_fields_to_search_by(self) -> None:
        (event,) = read_batch(encode(make_event(3, response={"status": 204}, user_id="u", company_id="c")))
        assert (event.verb, event.uri, event.status) == ("GET", "http://api.example.com/3", 204)
        assert (event.user_id, event.company_id, event.size) == ("u", "c", len(event.raw))

    def test_half_a_surrogate_pair_can_be_searched_by_too(self) -> None:
        (event,) = read_batch(encode(make_event(user_id="\ud800")))
        assert event.user_id == "?"
        assert "\\ud800" in event.raw

    def test_a_body_nested_as_deep_as_the_addon_sends(self) -> None:
        depth = 1024
        text = encode(make_event(metadata="?")).decode().replace('"?"', "[" * depth + "]" * depth)
        assert read_batch(text.encode())[0].transaction_id == "id-1"

    def test_one_event_where_one_is_expected_and_an_array_there_too(self) -> None:
        one = json.dumps(make_event(1)).encode()
        assert [event.raw for event in read_one_or_many(b" \n" + one + b" ")] == [one.decode()]
        assert len(read_one_or_many(b"[" + one + b"]")) == 1

    def test_no_events_at_all(self) -> None:
        assert read_batch(b" [ ] ") == []

    def test_the_largest_event(self) -> None:
        room = MAX_EVENT_BYTES - len(json.dumps(make_event(metadata="")))
        assert read_batch(encode(make_event(metadata="x" * room)))[0].size == MAX_EVENT_BYTES
        assert refusal(encode(make_event(metadata="x" * (room + 1)))) == 413


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"{}",
            b"1",
            b"[",
            b"[1",
            b"[1,]",
            b"[,]",
            b"[] x",
            b"[]]",
            b"[{}",
            b"[NaN]",
            b"\xff",
            b"[Infinity]",
            encode(make_event())[:-1],
            encode(make_event()) + b",",
            b"[1 2]",
            b'["\xc3"]',
            b"[" * 1000000,
        ],
    )
    def test_what_is_no_json_array(self, body: bytes) -> None:
        assert refusal(body) == 400

    @pytest.mark.parametrize(
        "event",
        [1, None, [], "text", {}, {"request": []}]
        + [
            make_event(request={**make_event()["request"], **part})
            for part in ({"time": 1}, {"uri": ""}, {"verb": None})
        ]
        + [make_event(request={**make_event()["request"], "time": "yesterday"})]
        + [make_event(transaction_id=7), make_event(user_id=[]), make_event(company_id={})],
    )
    def test_one_bad_event_refuses_its_batch(self, event: Any) -> None:
        assert refusal(json.dumps([make_event(1), event]).encode()) == 400

    def test_a_single_event_must_be_one(self) -> None:
        for body in (b"", b"1", b"{}", json.dumps(make_event()).encode() + b"x"):
            with pytest.raises(RefusedError):
                read_one_or_many(body)

    @given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br"]))
    def test_any_bytes_are_taken_or_refused(self, body: bytes, encoding: str) -> None:
        with suppress(RefusedError):
            read_one_or_many(body, encoding)


class TestInflating:
    @given(JSON, st.sampled_from(sorted(ENCODERS)))
    def test_round_trip(self, value: Any, encoding: str) -> None:
        content = json.dumps([make_event(metadata={"value": value})]).encode()
        assert read_batch(ENCODERS[encoding](content), encoding) == read_batch(content)

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_cut_short(self, encoding: str) -> None:
        assert refusal(ENCODERS[encoding](encode(make_event()))[:-1], encoding) == 400

    def test_an_unknown_encoding(self) -> None:
        assert refusal(b"[]", "zstd") == 415

    def test_a_bomb_yields_no_more_than_the_limit(self) -> None:
        encoder = zlib.compressobj()
        zeros = bytes(1_000_000)
        bomb = b"".join(encoder.compress(zeros) for _ in range(60)) + encoder.flush()

        assert refusal(bomb, "deflate") == 413

"""`X-Forwarded-*` as reverse proxies set it, on raw fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.proxy.forwarded import forwarded

PEER = b"198.51.100.7"


def add(*fields: tuple[bytes, bytes], scheme: bytes = b"http", authority: bytes = b"") -> list[tuple[bytes, bytes]]:
    return list(forwarded(fields, PEER, scheme, authority, b"8443"))


def test_a_first_hop() -> None:
    assert add((b"Host", b"api.example.com"), (b"A", b"1"), scheme=b"https") == [
        (b"Host", b"api.example.com"),
        (b"A", b"1"),
        (b"X-Forwarded-For", PEER),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"api.example.com"),
        (b"X-Forwarded-Port", b"8443"),
    ]


def test_a_later_hop_appends_itself_and_believes_the_first() -> None:
    before = (
        (b"host", b"h"),
        (b"x-forwarded-for", b"203.0.113.1, 203.0.113.2"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"public.example.com"),
        (b"x-forwarded-port", b"443"),
    )
    assert add(*before) == [
        (b"host", b"h"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"public.example.com"),
        (b"x-forwarded-port", b"443"),
        (b"x-forwarded-for", b"203.0.113.1, 203.0.113.2, " + PEER),
    ]


def test_several_lines_become_one_in_their_order() -> None:
    after = add((b"X-Forwarded-For", b"a"), (b"X-FORWARDED-FOR", b""), (b"X-Forwarded-For", b"b, c"))
    assert [value for name, value in after if name.lower() == b"x-forwarded-for"] == [b"a, b, c, " + PEER]


def test_what_http2_has_instead_of_host() -> None:
    assert (b"X-Forwarded-Host", b"h2.example.com") in add(authority=b"h2.example.com")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"API.Example.com:8443", b"api.example.com"),
        (b"api.example.com.", b"api.example.com"),
        (b"api.example.com.:80", b"api.example.com"),
        (b"[2001:DB8::1]:8443", b"[2001:db8::1]"),
        (b"[2001:db8::1", b"[2001"),
    ],
)
def test_the_host_is_a_name_in_lower_case_without_port_as_kong_sends_it(host: bytes, name: bytes) -> None:
    assert (b"X-Forwarded-Host", name) in add((b"Host", host))
    assert (b"X-Forwarded-Host", name) in add(authority=host)
    assert (b"Host", host) in add((b"Host", host)), "the host itself stays as it was sent"


def test_no_host_at_all() -> None:
    assert b"X-Forwarded-Host" not in dict(add())


@pytest.mark.parametrize("present", [b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port"])
def test_each_is_set_where_it_is_absent_itself(present: bytes) -> None:
    """As Kong does for a peer that it trusts."""
    after = add((b"Host", b"h"), (present.lower(), b"kept"))
    set_by_us = {b"X-Forwarded-Proto": b"http", b"X-Forwarded-Host": b"h", b"X-Forwarded-Port": b"8443"}
    expected = {present.lower(): b"kept", **{name: value for name, value in set_by_us.items() if name != present}}
    assert {name: value for name, value in after if name.lower() not in (b"host", b"x-forwarded-for")} == expected


ours = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
names = st.sampled_from(
    [b"Host", b"X-Forwarded-For", b"x-forwarded-for", b"X-Forwarded-Proto", b"x-forwarded-port", b"Accept", b"Cookie"]
)


@given(st.lists(st.tuples(names, st.binary(max_size=4)), max_size=8))
def test_other_fields_stay_as_they_are(fields: list[tuple[bytes, bytes]]) -> None:
    after = add(*fields)
    assert [field for field in after if field[0].lower() not in ours] == [
        field for field in fields if field[0].lower() not in ours
    ]
    for name in ours - {b"x-forwarded-for"}:
        given_values = [value for each, value in fields if each.lower() == name]
        assert given_values in ([], [value for each, value in after if each.lower() == name])
    (hops,) = (value for name, value in after if name.lower() == b"x-forwarded-for")
    assert hops.endswith(PEER)

"""Header fields as text."""

from __future__ import annotations

import time

from mitmproxy_moesif.event.headers import flatten


def test_a_header_on_several_lines_is_joined_in_its_place() -> None:
    fields = ((b"A", b"1"), (b"Cookie", b"x=1"), (b"b", b"2"), (b"a", b""), (b"cookie", b"y=2"), (b"a", b"3"))
    assert list(flatten(fields).items()) == [("a", "1, , 3"), ("cookie", "x=1; y=2"), ("b", "2")]


def test_a_header_on_many_lines_costs_linear_time() -> None:
    """An upstream's head has up to 1 MB; more lines show it sooner."""
    began = time.process_time()
    assert len(flatten(((b"a", b"b"),) * 500_000)["a"]) == 3 * 500_000 - 2
    assert time.process_time() - began < 2

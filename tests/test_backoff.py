"""Pauses between attempts."""

from __future__ import annotations

from mitmproxy_moesif.backoff import Backoff


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    backoff = Backoff(0.5, 60.0)
    for whole in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        assert whole / 2 <= backoff.failed() <= whole
    for _ in range(2000):
        assert 30 <= backoff.failed() <= 60


def test_a_success_starts_over() -> None:
    backoff = Backoff(1.0, 60.0)
    for _ in range(5):
        backoff.failed()
    backoff.reset()
    assert backoff.failed() <= 1


def test_pauses_differ_from_one_to_the_next_proxy() -> None:
    assert len({Backoff(1.0, 60.0).failed() for _ in range(20)}) > 1

"""What is said of a delivery process that answers late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from mitmproxy_moesif.delivery import keeper
from mitmproxy_moesif.delivery.keeper import Keeper


class Process:
    """Says nothing by itself."""

    def __init__(self, hear: Callable[[Any], None], *_: object) -> None:
        self.hear = hear
        started.append(self)

    def send(self, data: bytes) -> None: ...


started: list[Process] = []


def test_who_answers_again_is_no_trouble_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when the next look is due: health is asked at any time."""
    monkeypatch.setattr(keeper, "ChildProcess", Process)
    looks: list[Callable[[], None]] = []
    kept = Keeper(Mock(), apart=True)
    kept.start(Mock(call_later=lambda _seconds, look: looks.append(look)))
    for _ in range(2):
        assert kept.trouble is None
        looks.pop()()
    assert kept.trouble == "the delivery process does not answer"
    started[-1].hear(("report", {}))
    assert kept.trouble is None

"""What is said of a delivery process that answers late."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_where_none_can_be_started_another_try_follows(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [error]

    def short(*given: Any) -> Process:
        if errors:
            raise errors.pop()
        return Process(*given)

    monkeypatch.setattr(keeper, "ChildProcess", short)
    later: list[Callable[[], None]] = []
    kept = Keeper(Mock(), apart=True)
    kept.start(Mock(call_later=lambda _seconds, call: later.append(call)))
    assert f"the delivery process cannot be started: {said}" in caplog.text
    assert kept.server is None
    later[0]()
    assert isinstance(kept.server, Process)

"""The delivery process as the proxy hears it."""

from __future__ import annotations

import queue
import signal
from unittest.mock import Mock

import pytest

from mitmproxy_moesif.delivery.child import ChildProcess
from mitmproxy_moesif.delivery.protocol import packed


def test_one_that_cannot_be_heard_any_more_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Else nothing of what it does would ever be known, and no other would take its place."""
    ended: queue.Queue[int] = queue.Queue()
    child = ChildProcess(Mock(side_effect=RuntimeError("a secret")), lambda _, code: ended.put(code), Mock(), Mock())
    child.send(packed(("report", 0)))
    assert ended.get(timeout=20) == -signal.SIGKILL
    child.discard()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("moesif: a fault in hearing the delivery process, which is replaced: RuntimeError at ")
    assert "a secret" not in said

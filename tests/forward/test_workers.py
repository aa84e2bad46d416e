"""Forwarders as processes, where the machine has no room for one."""

from __future__ import annotations

import logging
import sys
import threading
import time

import pytest

from mitmproxy_moesif.forward.workers import Workers


def test_a_worker_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "mitmproxy_moesif")
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    workers = Workers(1, [], 0.0)
    running = threading.Thread(target=workers.run)
    running.start()
    try:
        deadline = time.monotonic() + 20
        while caplog.text.count("forwarder 1 cannot be started: No such file or directory; restarting in ") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        workers.stop()
        running.join(20)

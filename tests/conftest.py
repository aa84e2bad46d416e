"""What every test may ask for: a scripted collector and upstreams, mitmdump, and how often hypothesis tries."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Upstream
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

# No deadlines: how long one example takes says more about the machine than about the code.
# The same examples in every run: a test that fails does so because of a change. `make test-laws` seeks new ones.
settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, None, None]:
    """Each process of pytest-xdist collects the tests by a clock of its own.

    They refuse to run unless all collected the same names. A name made from the time (a gzip header holds it) would
    only fail where a second begins while they collect; this way it fails at once.
    """
    real, ahead = time.time, 3600 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with patch("time.time", lambda: real() + ahead):
        return (yield)


@pytest.fixture(autouse=True)
def signals_are_put_back() -> Iterator[None]:
    """What a test leaves ignored or blocked, the programs of later tests would inherit."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as collector:
        yield collector


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def h2_upstream() -> Iterator[H2Upstream]:
    with H2Upstream() as upstream:
        yield upstream


@pytest.fixture
def mitmdump() -> Iterator[Callable[..., Mitmdump]]:
    """Starts mitmdump as often as it is called, with `Mitmdump`'s arguments; all have ended when the test has."""
    with ExitStack() as started:

        def start(*args: Any, **kwargs: Any) -> Mitmdump:
            return started.enter_context(Mitmdump(*args, **kwargs))

        yield start


@pytest.fixture
def moesif_proxy() -> Iterator[Callable[..., MoesifProxy]]:
    """Starts `moesif-proxy` as often as it is called, with `MoesifProxy`'s arguments; all end with the test."""
    with ExitStack() as started:

        def start(*args: Any, **kwargs: Any) -> MoesifProxy:
            return started.enter_context(MoesifProxy(*args, **kwargs))

        yield start

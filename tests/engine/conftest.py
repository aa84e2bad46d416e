"""`moesif-proxy` for the tests of its room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.engine.proxies import MoesifProxy


@pytest.fixture
def moesif_proxy() -> Iterator[Callable[..., MoesifProxy]]:
    """Starts `moesif-proxy` as often as it is called, with `MoesifProxy`'s arguments; all end with the test."""
    with ExitStack() as started:

        def start(*args: Any, **kwargs: Any) -> MoesifProxy:
            return started.enter_context(MoesifProxy(*args, **kwargs))

        yield start

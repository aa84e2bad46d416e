"""The local stack in a thread, on free ports, with nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mitmproxy_moesif.local.server import LocalStack, start_in_thread


@pytest.fixture
def local() -> Iterator[LocalStack]:
    with start_in_thread() as stack:
        yield stack

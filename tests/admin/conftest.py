"""A listener on a free loopback port, and the fake proxy behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mitmproxy_moesif.admin.server import AdminServer, admin_server
from tests.admin.sources import FakeSource


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def server(source: FakeSource) -> Iterator[AdminServer]:
    server = admin_server("127.0.0.1:0", None, source)
    server.start()
    yield server
    server.stop()

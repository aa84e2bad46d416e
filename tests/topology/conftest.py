"""The stations that tests ask for. What stays the same is started once for the folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.topology.stations import Topology, behind_kong, in_front_of_kong


@pytest.fixture(scope="package")
def front() -> Iterator[Topology]:
    """client -> addon -> Kong -> service, and the addon is told so."""
    with in_front_of_kong(position="front") as topology:
        yield topology


@pytest.fixture(scope="package")
def behind() -> Iterator[Topology]:
    """client -> Kong -> addon -> service, and the addon is told nothing."""
    with behind_kong() as topology:
        yield topology

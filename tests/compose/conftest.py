"""Compose's view of each stack, asked for once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compose.tools import REQUIRED, STACKS, compose_config, parsed


@pytest.fixture(scope="session")
def stacks() -> dict[str, dict[str, Any]]:
    """What `docker-compose config` prints for each stack, everything required being set."""
    found = {}
    for stack in STACKS:
        told = compose_config(stack, REQUIRED)
        assert told.returncode == 0, f"{stack}.yml: {told.stderr}"
        assert "warn" not in told.stderr.lower(), f"{stack}.yml: {told.stderr}"
        found[stack] = parsed(told.stdout)
    return found

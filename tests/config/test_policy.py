"""The policy of an instance, compiled from its settings."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_moesif.config.policy import credentials_in_force, masks_in_force
from mitmproxy_moesif.config.settings import parse_settings


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "none; headers with credentials are left out (credential_headers=send sends them)"),
        (
            {"request_body_masks": "a,b", "request_query_masks": "c", "credential_headers": "send"},
            "request_body_masks 2, request_query_masks 1; headers with credentials are sent",
        ),
    ],
)
def test_one_line_tells_what_is_masked(given: dict[str, Any], line: str) -> None:
    settings = parse_settings(given)
    assert f"{masks_in_force(settings)}; {credentials_in_force(settings)}" == line

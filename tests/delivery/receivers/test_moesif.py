"""What an answer of Moesif's means."""

from __future__ import annotations

import pytest
import requests

from mitmproxy_moesif.delivery.batch import OLDEST
from mitmproxy_moesif.delivery.receivers.base import Verdict
from mitmproxy_moesif.delivery.receivers.moesif import outcome_of


@pytest.mark.parametrize(
    ("statuses", "verdict", "for_content"),
    [
        ((200, 201, 202, 204), Verdict.ACCEPTED, False),
        ((400, 413, 422), Verdict.REFUSED, False),
        ((401, 402), Verdict.UNAUTHORIZED, False),
        ((403,), Verdict.UNAUTHORIZED, True),
        ((408, 429), Verdict.UNAVAILABLE, False),
        ((301, 404, 415, 500, 502, 503, 504), Verdict.UNAVAILABLE, True),
    ],
)
def test_each_status(statuses: tuple[int, ...], verdict: Verdict, *, for_content: bool) -> None:
    for status in statuses:
        answer = requests.Response()
        answer.status_code = status
        outcome = outcome_of(answer, "")
        assert (outcome.verdict, outcome.for_content) == (verdict, for_content), status


def test_moesif_takes_events_of_thirty_days() -> None:
    assert OLDEST == 2_592_000

"""What of a request lets rules apply to it; the rest is tested with a proxy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mitmproxy_moesif.capture.enforcement import names_two_callers
from mitmproxy_moesif.config.policy import compile_policy
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.governance.snapshot import RuleBook


@pytest.mark.parametrize(
    ("names", "two"),
    [
        ([b"X-User"], False),
        ([b"x_user", b"X-Other", b"X-Other"], False),
        ([b"X-User", b"x-user"], True),
        ([b"X_User", b"x_user"], True),
        ([b"X-User", b"X_User"], True),
        ([b"X-Consumer-Id", b"x-consumer-id"], True),
    ],
)
def test_a_header_that_says_who_calls_may_be_there_once_in_any_spelling(names: list[bytes], two: bool) -> None:
    policy = compile_policy(parse_settings({"user_id_header": "x_user"}))
    entry = SimpleNamespace(
        instance=SimpleNamespace(policy=policy), request_headers=tuple((name, b"ada") for name in names)
    )
    rules = SimpleNamespace(index=SimpleNamespace(header_names=frozenset()), ask_who_calls=True)
    assert names_two_callers(cast(Any, entry), cast(RuleBook, rules)) is two

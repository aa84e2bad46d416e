"""The gate's options: what is taken, and one line for what is not."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.jwt_gate.settings import parse_gate_settings
from tests.jwt_gate.signing import SECRET


def test_off_with_plain_defaults() -> None:
    settings = parse_gate_settings({})
    assert (settings.jwt_gate, settings.jwt_exit_code, settings.jwt_required, settings.jwt_leeway) == (
        False,
        401,
        False,
        0,
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"jwt_exit_code": 200}, "jwt_exit_code: should be greater than or equal to 400, 200 was given"),
        ({"jwt_exit_code": 600}, "jwt_exit_code: should be less than or equal to 599, 600 was given"),
        ({"jwt_leeway": -1}, "jwt_leeway: should be greater than or equal to 0, -1 was given"),
        ({"jwt_claim_headers": ["username"]}, "jwt_claim_headers: must be a list of claim:Header-Name; 'username'"),
        ({"jwt_claim_headers": [":X"]}, "jwt_claim_headers: must be a list of claim:Header-Name"),
        ({"jwt_claim_headers": ["a:X Y"]}, "jwt_claim_headers: must be a list of claim:Header-Name"),
        ({"jwt_claim_headers": ["a:X\r\nSet-Cookie"]}, "jwt_claim_headers: must be a list of claim:Header-Name"),
        *(
            ({"jwt_claim_headers": [f"a:{name}"]}, f"jwt_claim_headers: {name} has a special meaning")
            for name in ("Content-Length", "Host", "authorization", "Content_Type")
        ),
        ({"jwt_claim_headers": ["a:X-A,b:x-a"]}, "jwt_claim_headers: x-a is named twice"),
        ({"jwt_algorithms": ["none"]}, "jwt_algorithms: 'none' is not among HS256"),
        ({"jwt_algorithms": ["hs256"]}, "jwt_algorithms: 'hs256' is not among HS256"),
        ({"jwt_key": " "}, "jwt_key: must not be empty, a value not shown here was given"),
        ({"jwt_public_key": ""}, "jwt_public_key: must not be empty"),
        ({"jwt_jwks": ""}, "jwt_jwks: must not be empty"),
    ],
)
def test_a_bad_value_is_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_gate_settings(given)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_claim_headers_are_split_at_the_last_colon() -> None:
    given = ["username:JWT-username, https://example.com/role:X-Role", "sub : X-Sub"]
    pairs = parse_gate_settings({"jwt_claim_headers": given}).claim_headers
    assert pairs == (("username", "JWT-username"), ("https://example.com/role", "X-Role"), ("sub", "X-Sub"))


def test_the_key_is_in_no_repr() -> None:
    assert SECRET not in repr(parse_gate_settings({"jwt_key": SECRET}))

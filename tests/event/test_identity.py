"""Who called: user and company from headers and tokens."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import IdentityPolicy
from mitmproxy_moesif.event.identity import Caller, Token, identify, naming_headers

POLICY = IdentityPolicy(
    user_header="x-user-id",
    company_header="x-org",
    token_headers=("x-api-key", "authorization"),
    user_claim="sub",
    company_claim="org",
)


def b64(value: object, *, url: bool = True, padded: bool = False) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    encoded = (base64.urlsafe_b64encode if url else base64.b64encode)(raw).decode()
    return encoded if padded else encoded.rstrip("=")


def jwt(**claims: Any) -> str:
    return f"{b64({'alg': 'none'})}.{b64(claims)}.c2ln"


def caller(request: dict[str, str], response: dict[str, str] | None = None, policy: IdentityPolicy = POLICY) -> Caller:
    return identify(policy, request, response or {}, (request,), request)


@pytest.mark.parametrize(
    ("request_headers", "response_headers", "user"),
    [
        ({"x-user-id": "ada"}, {}, "ada"),
        ({}, {"x-user-id": "ada"}, "ada"),
        ({"x-user-id": "ada"}, {"x-user-id": "bob"}, "ada"),
        ({"x-user-id": "   "}, {"x-user-id": "bob"}, "bob"),
        ({"x-consumer-username": "bob"}, {"x-user-id": "ada"}, "ada"),
        ({"authorization": f"Bearer {jwt(sub='bob')}"}, {"x-user-id": "ada"}, "ada"),
        ({"x-consumer-custom-id": "c", "x-consumer-username": "u", "x-consumer-id": "i"}, {}, "c"),
        ({"x-consumer-custom-id": "", "x-consumer-username": "u", "x-consumer-id": "i"}, {}, "u"),
        ({"x-consumer-id": "i"}, {}, "i"),
        ({"x-consumer-id": "i", "authorization": f"Bearer {jwt(sub='bob')}"}, {}, "i"),
        ({"x-consumer-id": "i", "x-anonymous-consumer": "true"}, {}, None),
        (
            {"x-consumer-id": "i", "x-anonymous-consumer": "true", "authorization": f"Bearer {jwt(sub='bob')}"},
            {},
            "bob",
        ),
        ({}, {}, None),
    ],
)
def test_the_first_that_names_a_user_wins(
    request_headers: dict[str, str], response_headers: dict[str, str], user: str | None
) -> None:
    assert caller(request_headers, response_headers).user_id == user


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (f"Bearer {jwt(sub='ada')}", "ada"),
        (f"bEARER   {jwt(sub='ada')}", "ada"),
        (jwt(sub="ada"), "ada"),
        (b64({"sub": "ada"}), "ada"),
        (b64({"sub": "ada"}, padded=True), "ada"),
        (b64({"sub": "ada?>~~~ÿÿ"}, url=False, padded=True), "ada?>~~~ÿÿ"),
        (b64({"sub": "ada?>~~~ÿÿ"}), "ada?>~~~ÿÿ"),
        (f"Basic {b64(b'ada:s3cret', padded=True)}", "ada"),
        (f"BASIC {b64(b'ada:s3:cret')}", "ada"),
        (f"Basic {b64(b':s3cret')}", None),
        (f"Basic {b64(b'nocolon')}", None),
        (f"Basic {b64('jörg:x'.encode())}", "jörg"),
        (f"Basic {b64('jörg:x'.encode('latin-1'))}", "jörg"),
        ("Basic ***", None),
        ("Bearer opaque-token", None),
        (f"Bearer a.{b64([1])}.c", None),
        (f"Bearer a.{b64('text')}.c", None),
        ("Bearer a.!!!.c", None),
        (f"Bearer {b64({'sub': 'ada'})}", None),
        (f"Bearer {jwt(sub='ada').rpartition('.')[0]}", "ada"),
        (f"Bearer {jwt(sub='ada').removesuffix('c2ln')}", "ada"),
        (jwt(sub="ada").rpartition(".")[0], None),
        (f"Bearer a..{b64({'sub': 'ada'})}", None),
        (f"Token {jwt(sub='ada')}", "ada"),
        ("Bearer", None),
        ("", None),
    ],
)
def test_tokens_with_any_scheme_padding_and_alphabet(value: str, user: str | None) -> None:
    assert caller({"authorization": value}).user_id == user


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"sub": 42}, "42"),
        ({"sub": 123456789012345678901234567890}, "123456789012345678901234567890"),
        ({"sub": 1.5}, "1.5"),
        ({"sub": 7.0}, "7"),
        ({"sub": True}, None),
        ({"sub": None}, None),
        ({"sub": {"id": 1}}, None),
        ({"sub": "  "}, None),
        ({"SUB": "any case"}, "any case"),
        ({"SUB": "any case", "sub": "exact"}, "exact"),
        ({"sub": ""}, None),
        ({"other": "x"}, None),
    ],
)
def test_claims_by_exact_name_first_and_numbers_as_text(claims: dict[str, Any], user: str | None) -> None:
    assert caller({"authorization": f"Bearer {jwt(**claims)}"}).user_id == user


def test_of_a_list_of_headers_the_first_present_is_read() -> None:
    both = {"x-api-key": jwt(sub="key"), "authorization": f"Bearer {jwt(sub='bearer')}"}
    assert caller(both).user_id == "key"
    assert caller({"authorization": both["authorization"]}).user_id == "bearer"
    assert caller({**both, "x-api-key": "unreadable"}).user_id is None


def test_a_name_with_an_underscore_also_finds_the_header_with_a_hyphen() -> None:
    policy = IdentityPolicy("x_user_id", "x_org", ("x_token",), "sub", None)
    hyphened = {"x-user-id": "ada", "x-org": "acme"}
    assert caller(hyphened, policy=policy) == Caller("ada", "acme")
    assert caller({}, hyphened, policy) == Caller("ada", "acme")
    assert caller({**hyphened, "x_user_id": "bob"}, policy=policy) == Caller("bob", "acme")
    assert caller({"x-token": jwt(sub="ada")}, policy=policy).user_id == "ada"
    assert caller({"x_user_id": "ada"}, policy=IdentityPolicy("x-user-id", None, (), "sub", None)).user_id is None
    assert {"x_user_id", "x-user-id", "x-token"} <= naming_headers(policy)


@pytest.mark.parametrize(
    ("request_headers", "response_headers", "company"),
    [
        ({"x-org": "acme"}, {"x-org": "other"}, "acme"),
        ({}, {"x-org": "acme"}, "acme"),
        ({"x-org": "acme", "authorization": f"Bearer {jwt(org='token')}"}, {}, "acme"),
        ({"authorization": f"Bearer {jwt(org='token')}"}, {"x-org": "acme"}, "acme"),
        ({"authorization": f"Bearer {jwt(org=7)}"}, {}, "7"),
        ({"authorization": f"Basic {b64(b'ada:x')}"}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_company_header_beats_the_token(
    request_headers: dict[str, str], response_headers: dict[str, str], company: str | None
) -> None:
    assert caller(request_headers, response_headers).company_id == company


@given(st.text())
def test_no_header_value_raises(value: str) -> None:
    token = Token.parse(value)
    assert token.basic_user is None or isinstance(token.basic_user, str)
    assert token.claim("sub") is None or isinstance(token.claim("sub"), str)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_every_claim_gives_text_that_can_be_sent_or_nothing(value: object) -> None:
    user = Token(claims={"sub": value}).claim("sub")
    assert user is None or (user.encode() and user.strip() == user)


def test_a_deeply_nested_token_identifies_nobody() -> None:
    assert caller({"authorization": f"Bearer a.{b64(b'[' * 100_000)}.c"}).user_id is None

"""Which requests pass: signatures, times, what is missing or strange, and claims as headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.jwt_gate.keys import load_keys
from mitmproxy_moesif.jwt_gate.settings import HMAC, SIGNATURES, parse_gate_settings
from mitmproxy_moesif.jwt_gate.tokens import (
    MOST_HEADER_BYTES,
    MOST_TOKEN_BYTES,
    Refusal,
    Rules,
    claim_texts,
    header_text,
)
from tests.jwt_gate.signing import (
    NOW,
    SECRET,
    bearer,
    ec_key,
    ed_key,
    hmac_token,
    jwk,
    public_pem,
    rsa_key,
    segment,
    token,
    unsigned_token,
    write_jwks,
)

INVALID, EXPIRED, EARLY, REQUIRED = Refusal.INVALID, Refusal.EXPIRED, Refusal.EARLY, Refusal.REQUIRED


def rules(*, required: bool = False, leeway: int = 0, **options: Any) -> Rules:
    keys = load_keys(parse_gate_settings({f"jwt_{name}": value for name, value in options.items()}))
    return Rules(keys, required, leeway)


def decide(of: Rules, *headers: tuple[str, str], now: float = NOW) -> Any:
    return of.decide(tuple((name.encode(), value.encode()) for name, value in headers), now)


READING, SHARED = rules(), rules(key=SECRET)


# --- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [READING, SHARED])
@pytest.mark.parametrize(
    ("exp", "expired"),
    [(NOW - 1, True), (NOW, True), (NOW + 1, False), (NOW + 0.5, False), (-5, True), (10**400, False), (1e300, False)],
)
def test_exp_is_the_first_second_that_is_too_late(of: Rules, exp: float, expired: bool) -> None:
    verdict = decide(of, bearer(hmac_token({"exp": exp})))
    assert verdict == (EXPIRED if expired else {"exp": exp})


def test_leeway_is_added_to_exp_and_taken_from_nbf() -> None:
    of = rules(key=SECRET, leeway=10)
    assert decide(of, bearer(hmac_token({"exp": NOW - 9}))) == {"exp": NOW - 9}
    assert decide(of, bearer(hmac_token({"exp": NOW - 10}))) is EXPIRED
    assert decide(of, bearer(hmac_token({"nbf": NOW + 10}))) == {"nbf": NOW + 10}
    assert decide(of, bearer(hmac_token({"nbf": NOW + 11}))) is EARLY


def test_nbf_counts_only_where_it_is_verified() -> None:
    early = hmac_token({"nbf": NOW + 1})
    assert decide(SHARED, bearer(early)) is EARLY
    assert decide(READING, bearer(early)) == {"nbf": NOW + 1}


def test_a_token_without_times_has_no_end() -> None:
    assert decide(SHARED, bearer(hmac_token({"sub": 7}))) == {"sub": 7}


@pytest.mark.parametrize("exp", ['"1"', "null", "true", "NaN", "Infinity", "-Infinity", "1e999", "[1]", "{}"])
def test_an_exp_that_is_no_date_is_a_token_that_cannot_be_read(exp: str) -> None:
    strange = hmac_token(b'{"exp": %s, "sub": "ada"}' % exp.encode())
    assert decide(SHARED, bearer(strange)) is INVALID
    assert decide(rules(required=True), bearer(strange)) is INVALID
    assert decide(READING, bearer(strange)) == {}


# --- where the token is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  \t"])
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_scheme_and_header_in_any_case(scheme: str, name: str) -> None:
    assert decide(READING, (name, f"{scheme} {hmac_token({'exp': 1})} ")) is EXPIRED


@pytest.mark.parametrize("headers", [(), (("Authorization", "Basic YTpi"),), (("Authorization", "Bearer"),)])
def test_without_a_token(headers: tuple[tuple[str, str], ...]) -> None:
    assert decide(READING, *headers) == {}
    assert decide(SHARED, *headers) == {}
    assert decide(rules(required=True), *headers) is REQUIRED
    assert decide(rules(required=True, key=SECRET), *headers) is REQUIRED


@pytest.mark.parametrize("of", [READING, SHARED])
@pytest.mark.parametrize("other", ["Basic YTpi", "", "Bearer", "Digest a=b"])
def test_two_authorization_headers_are_refused(of: Rules, other: str) -> None:
    good = bearer(hmac_token({"sub": "ada"}))
    assert decide(of, good, ("authorization", other)) is INVALID
    assert decide(of, ("Authorization", other), good) is INVALID
    assert decide(of, good, good) is INVALID
    assert decide(of, ("Authorization", "Basic YTpi"), ("Authorization", other)) is INVALID


READ_BY_SOMEBODY = [
    b"Bearer\x0b%s",
    b"Bearer\x0c%s",
    b"Bearer\x1f%s",
    b"Bearer\r\n %s",
    b"Bearer\0%s",
    b"Bearer\xa0%s",
    b"Bearer\x85%s",
    b"Bearer\xc2\xa0%s",
    b"Bearer\xe2\x80\x83 %s",
    b"\xef\xbb\xbfBearer %s",
    b"\xa0bearer %s\xa0",
    b"%s",
    b"JWT %s",
    b"Token\t%s",
    b"Foo bar %s",
]


@pytest.mark.parametrize("form", READ_BY_SOMEBODY)
def test_what_somebody_reads_as_a_token_is_verified(form: bytes) -> None:
    def verdict(of: Rules, secret: str, **claims: Any) -> Any:
        value = form % hmac_token({"sub": "ada", **claims}, secret).encode()
        return of.decide(((b"Authorization", value),), NOW)

    assert verdict(SHARED, SECRET) == {"sub": "ada"}
    assert verdict(SHARED, "another") is INVALID
    assert verdict(SHARED, SECRET, exp=1) is EXPIRED
    assert verdict(READING, "another", exp=1) is EXPIRED


@pytest.mark.parametrize(
    "form",
    [
        b"Bearer,%s",
        b"Bearer:%s",
        b"Bearer=%s",
        b"Bearer%s",
        b'"Bearer %s"',
        b"Basic YTpi, Bearer %s",
        b"Foo Bearer %s",
        b"Foo,bEaReR\xa0%s",
        b"Bearers %s",
    ],
)
def test_a_bearer_that_only_some_find_is_refused(form: bytes) -> None:
    fields = ((b"Authorization", form % hmac_token({"sub": "ada"}).encode()),)
    for of in (SHARED, READING, rules(required=True)):
        assert of.decide(fields, NOW) is INVALID


@pytest.mark.parametrize(
    "form", [b"Bearer %s extra", b"Bearer %s,", b"Bearer %s, Basic YTpi", b"Bearer '%s'", b"Bearer %s\xa0x"]
)
def test_a_token_with_something_beside_it_is_none(form: bytes) -> None:
    fields = ((b"Authorization", form % hmac_token({"sub": "ada"}).encode()),)
    assert SHARED.decide(fields, NOW) is INVALID


@pytest.mark.parametrize(
    "form",
    [
        b'Token token="%s"',
        b"Token token=%s",
        b'Token "%s"',
        b"JWT %s,",
        b"JWT %s x",
        b"JWT %s, a=b",
        b"JWT %s==",
        b"JWT +%s",
        b"Token x.%s.y;",
        b"Basic %s:",
        b'Digest username="x", token="%s"',
        b"%s x",
        b"Token token=%s, " + hmac_token({"sub": "ada"}).encode(),
    ],
)
def test_with_a_key_a_token_where_only_some_look_is_refused(form: bytes) -> None:
    fields = ((b"Authorization", form % hmac_token({"sub": "eve"}, "another").encode()),)
    assert SHARED.decide(fields, NOW) is INVALID
    assert not isinstance(READING.decide(fields, NOW), Refusal)


def test_what_has_more_dots_than_are_looked_at_is_refused() -> None:
    for count, verdict in ((90, {}), (20_000, INVALID)):
        assert SHARED.decide(((b"Authorization", b"Key (" + b"eaa." * count),), NOW) == verdict


@pytest.mark.parametrize("value", [b"=x", b", Basic a", b"(x)", b"a/b+c==", b'"quoted"', b"\xc3\xa9/ x"])
def test_with_a_key_a_header_that_is_no_scheme_is_refused(value: bytes) -> None:
    fields = ((b"Authorization", value),)
    assert SHARED.decide(fields, NOW) is INVALID
    assert READING.decide(fields, NOW) == {}


@pytest.mark.parametrize(
    "value",
    ["Basic YTpi", "Negotiate YII=", "api-key-7", 'Digest username="Zo\u00eb", uri="/a.b.c", opaque="a.b.c"', ""],
)
def test_other_schemes_are_no_token(value: str) -> None:
    for of in (SHARED, READING):
        assert decide(of, ("Authorization", value)) == {}
    assert decide(rules(required=True, key=SECRET), ("Authorization", value)) is REQUIRED


@pytest.mark.parametrize(
    "strange",
    [
        "opaque",
        "a.b",
        "a.b.c",
        "..",
        f"{segment(b'{}')}.{segment(b'{}')}.!",
        f"{segment(b'[]')}.{segment(b'{}')}.",
        f"{segment(b'{}')}.{segment(b'[' * 11_000)}.",
        f"{segment(b'[' * 11_000)}.{segment(b'{}')}.",
        f"{segment(b'{}')}.{segment(b'[' * 20_000)}.",
        hmac_token(b"[1]"),
        hmac_token(b"\xff\xfe{}"),
        hmac_token('{"a": 1}'.encode("utf-16")),
        hmac_token(b'{"a": %s}' % (b"9" * 5000)),
        hmac_token({"a": 1}, crit=["unknown"], unknown=1),
        hmac_token({"a": 1}, b64=False, crit=["b64"]),
        hmac_token({"a": 1}, kid=7),
        hmac_token({"a": "x" * MOST_TOKEN_BYTES}),
        "é.ü.ö",
    ],
)
def test_what_cannot_be_read_is_refused_where_a_token_is_asked_for(strange: str) -> None:
    assert decide(SHARED, bearer(strange)) is INVALID
    assert decide(rules(required=True), bearer(strange)) is INVALID
    assert decide(READING, bearer(strange)) == {}


@given(st.binary(max_size=200))
def test_no_header_makes_a_fault(value: bytes) -> None:
    for of in (READING, SHARED, rules(required=True)):
        assert of.decide(((b"authorization", b"Bearer " + value),), NOW) in ({}, INVALID, REQUIRED)


# --- signatures ----------------------------------------------------------------------------------------------------


def test_a_signature_that_is_not_by_the_key_is_invalid_also_when_expired() -> None:
    for claims in ({"sub": "ada"}, {"exp": 1}):
        assert decide(SHARED, bearer(hmac_token(claims, "another"))) is INVALID


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS257"])
def test_none_is_never_verified(algorithm: str, tmp_path: Path) -> None:
    public = tmp_path / "key.pem"
    public.write_bytes(public_pem(rsa_key()))
    for of in (SHARED, rules(public_key=str(public))):
        assert decide(of, bearer(unsigned_token({"sub": "ada"}, algorithm))) is INVALID
        assert decide(of, bearer(hmac_token({"sub": "ada"}, alg=algorithm))) is INVALID


@pytest.mark.parametrize("algorithm", [["HS256"], {"HS256": 1}, 256, None, True])
def test_an_algorithm_that_is_no_name_is_invalid(algorithm: Any) -> None:
    assert decide(SHARED, bearer(hmac_token({"sub": "ada"}, alg=algorithm))) is INVALID


@pytest.mark.parametrize("algorithm", HMAC)
@pytest.mark.parametrize("source", ["public_key", "jwks"])
def test_a_public_key_is_no_secret(algorithm: str, source: str, tmp_path: Path) -> None:
    """Algorithm confusion: whoever knows the public key signs with HMAC, the key's text as the secret."""
    pem, jwks = tmp_path / "key.pem", tmp_path / "keys.json"
    pem.write_bytes(public_pem(rsa_key()))
    write_jwks(jwks, jwk(rsa_key(), kid="k1"))
    given: dict[str, Any] = {source: str({"public_key": pem, "jwks": jwks}[source])}
    of = rules(**given)
    assert decide(of, bearer(token({"sub": "ada"}, rsa_key(), "RS256"))) == {"sub": "ada"}
    for secret in (pem.read_bytes(), pem.read_bytes().strip(), jwks.read_bytes(), b""):
        assert decide(of, bearer(hmac_token({"sub": "ada"}, secret, alg=algorithm))) is INVALID


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(rsa_key(), name) for name in SIGNATURES if name[:2] in ("RS", "PS")]
    + [
        (ec_key(), "ES256"),
        (ec_key(ec.SECP384R1), "ES384"),
        (ec_key(ec.SECP521R1), "ES512"),
        (ec_key(ec.SECP256K1), "ES256K"),
        (ed_key(), "EdDSA"),
    ],
)
def test_every_algorithm_verifies_and_notices_a_changed_token(key: Any, algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(key))
    of = rules(public_key=str(path), algorithms=[algorithm])
    header, payload, signature = token({"sub": "ada"}, key, algorithm).split(".")
    assert decide(of, bearer(f"{header}.{payload}.{signature}")) == {"sub": "ada"}
    forged = segment(json.dumps({"sub": "eve"}).encode())
    assert decide(of, bearer(f"{header}.{forged}.{signature}")) is INVALID
    assert decide(of, bearer(f"{header}.{payload}.{segment(bytes(64))}")) is INVALID
    assert decide(of, bearer(f"{header}.{payload}.")) is INVALID


def test_an_algorithm_that_is_not_accepted_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(rsa_key()))
    of = rules(public_key=str(path), algorithms=["RS256"])
    assert decide(of, bearer(token({}, rsa_key(), "RS256"))) == {}
    assert decide(of, bearer(token({}, rsa_key(), "PS256"))) is INVALID


def test_rotation_by_key_id(tmp_path: Path) -> None:
    old, new, bare = rsa_key(0), rsa_key(1), ec_key()
    of = rules(jwks=str(write_jwks(tmp_path / "keys.json", jwk(old, kid="old"), jwk(new, kid="new"))))
    assert decide(of, bearer(token({"n": 1}, old, "RS256", kid="old"))) == {"n": 1}
    assert decide(of, bearer(token({"n": 2}, new, "RS256", kid="new"))) == {"n": 2}
    assert decide(of, bearer(token({"n": 3}, new, "RS256"))) == {"n": 3}  # no id: every key is tried
    assert decide(of, bearer(token({}, new, "RS256", kid="old"))) is INVALID
    assert decide(of, bearer(token({}, new, "RS256", kid="gone"))) is INVALID
    of = rules(jwks=str(write_jwks(tmp_path / "keys.json", jwk(old, kid="old"), jwk(bare))))
    assert decide(of, bearer(token({"n": 4}, bare, "ES256", kid="any"))) == {"n": 4}  # a key without an id serves all


# --- claims as headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ada", "ada"),
        (" ada ", "ada"),
        ("Zoë 🦊", "Zoë 🦊"),
        ("a\r\nSet-Cookie: b", "a??Set-Cookie: b"),
        ("a\0b\tc\x7fd\x85e\u2028f", "a?b?c?d?e?f"),
        ("\ud800", "?"),
        (7, "7"),
        (2**70, "1180591620717411303424"),
        (-1, "-1"),
        (1.0, "1"),
        (1.5e-7, "0.00000015"),
        (1e22, "10000000000000000000000"),
        (True, "true"),
        (False, "false"),
        ("", None),
        ("  ", None),
        (None, None),
        ([1], None),
        ({"a": 1}, None),
        ("x" * MOST_HEADER_BYTES, "x" * MOST_HEADER_BYTES),
        ("x" * (MOST_HEADER_BYTES + 1), None),
        ("é" * MOST_HEADER_BYTES, None),
    ],
)
def test_a_claim_as_a_header(value: object, text: str | None) -> None:
    assert header_text(value) == text


json_values = st.recursive(
    st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(json_values | st.text("\r\n\0:\x85\u2028 a", max_size=2000))
def test_no_claim_breaks_out_of_its_header(value: Any) -> None:
    claims = json.loads(json.dumps({"claim": value}))
    for name, text in claim_texts(claims, [("claim", "X-Claim"), ("missing", "X-Missing")]):
        line = text.encode()
        assert name == "X-Claim"
        assert 0 < len(line) <= MOST_HEADER_BYTES
        assert not any(byte < 0x20 or byte == 0x7F for byte in line)
        assert text.isprintable() or not any(ord(char) < 0xA0 and not char.isprintable() for char in text)
        assert text.splitlines() == [text]

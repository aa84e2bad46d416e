"""Keys from options and files: what is taken, what each verifies, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.jwt_gate.keys import MOST_BYTES, MOST_KEYS, Key, load_keys
from mitmproxy_moesif.jwt_gate.settings import SIGNATURES, parse_gate_settings
from tests.jwt_gate.signing import SECRET, ec_key, ed_key, jwk, private_pem, public_pem, rsa_key, write_jwks
from tests.support.h2 import make_certificate

RSA_NAMES = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def keys(**options: Any) -> tuple[Key, ...]:
    return load_keys(parse_gate_settings({f"jwt_{name}": value for name, value in options.items()}))


def refused(**options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        keys(**options)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


def test_no_key_is_none() -> None:
    assert keys() == ()


def test_a_shared_key_is_for_hs256_unless_told_otherwise() -> None:
    assert set(keys(key=SECRET)[0].algorithms) == {"HS256"}
    assert set(keys(key=SECRET, algorithms=["HS512", "HS384"])[0].algorithms) == {"HS384", "HS512"}
    assert SECRET not in repr(keys(key=SECRET))


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (rsa_key(), RSA_NAMES),
        (ec_key(), {"ES256"}),
        (ec_key(ec.SECP384R1), {"ES384"}),
        (ec_key(ec.SECP521R1), {"ES512"}),
        (ec_key(ec.SECP256K1), {"ES256K"}),
        (ed_key(), {"EdDSA"}),
    ],
)
def test_a_public_key_verifies_what_its_type_does(key: Any, names: set[str], tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_bytes(public_pem(key))
    (one,) = keys(public_key=str(pem))
    assert (one.kid, set(one.algorithms)) == (None, names)
    (other,) = keys(jwks=str(write_jwks(tmp_path / "keys.json", jwk(key, kid="k1", alg=None))))
    assert (other.kid, set(other.algorithms)) == ("k1", names)


def test_a_pem_file_may_hold_several_keys_and_certificates(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    pem = tmp_path / "keys.pem"
    pem.write_bytes(b"old one:\n" + public_pem(rsa_key()) + certificate.read_bytes() + public_pem(ed_key()))
    assert [set(key.algorithms) for key in keys(public_key=str(pem))] == [RSA_NAMES, {"ES256"}, {"EdDSA"}]


def test_only_accepted_algorithms_are_bound(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "keys.json", jwk(rsa_key(), alg=None), jwk(ec_key()), jwk(rsa_key(1), alg="PS256"))
    found = keys(jwks=str(path), algorithms=["RS256", "PS256"])
    assert [set(key.algorithms) for key in found] == [{"RS256", "PS256"}, {"PS256"}]


def test_keys_that_are_for_something_else_are_passed_over(tmp_path: Path) -> None:
    others = [
        jwk(rsa_key(), use="enc"),
        jwk(rsa_key(), alg="RSA-OAEP"),
        jwk(rsa_key(), key_ops=["encrypt"]),
        jwk(ec_key(), crv="brainpoolP256r1"),
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": ["RSA"], "crv": {}},
        {},
    ]
    path = write_jwks(tmp_path / "keys.json", *others, jwk(rsa_key(), kid="good", use="sig"))
    assert [key.kid for key in keys(jwks=str(path))] == ["good"]
    assert "contains no key for RS256" in refused(jwks=str(write_jwks(path, *others)))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"key": SECRET, "jwks": "/x"}, "jwt_key and jwt_jwks: only one of them may be given"),
        ({"algorithms": ["RS256"]}, "jwt_algorithms: nothing is verified without jwt_key"),
        ({"key": SECRET, "algorithms": ["RS256"]}, "jwt_algorithms: RS256 verifies with public keys, not with jwt_key"),
        ({"key": public_pem(rsa_key()).decode()}, "jwt_key: is a public key, a certificate or a JWK"),
        ({"public_key": "/does/not/exist"}, "jwt_public_key: '/does/not/exist' cannot be read: No such file"),
        ({"public_key": "/"}, "jwt_public_key: '/' is not a file"),
        ({"public_key": "\0"}, "jwt_public_key: '\\x00' is not a path"),
        ({"public_key": "~nobody-of-this-name/key"}, "jwt_public_key: '~nobody-of-this-name/key' is not a path"),
        ({"jwks": '{"keys": []}'}, "jwt_jwks: expected the name of a file, not a key"),
    ],
)
def test_what_is_wrong_is_one_line(options: dict[str, Any], line: str) -> None:
    assert refused(**options).startswith(line)


def test_a_private_key_in_place_of_a_file_is_not_quoted() -> None:
    text = refused(public_key=private_pem(rsa_key()).decode())
    assert text == "jwt_public_key: expected the name of a file, not a key"


def dsa_pem() -> bytes:
    public = dsa.generate_private_key(1024).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a PEM file"),
        (b"hello", "is not a PEM file"),
        (private_pem(rsa_key()), "contains a private key; give the public one"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "block 1 (PUBLIC KEY) is not a public key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "block 1 (CERTIFICATE) is not a public key"),
        (dsa_pem(), "contains no key for RS256"),
        (b" " * (MOST_BYTES + 1), f"is larger than {MOST_BYTES} bytes"),
    ],
)
def test_a_bad_pem_file(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    text = refused(public_key=str(path))
    assert text.startswith(f"jwt_public_key: '{path}'")
    assert reason in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a key set"),
        ('{"keys": {}}', "is not a key set"),
        ('{"keys": []}', "contains no key for"),
        ('{"keys": [1]}', "key 1 is not an object"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "key 1 is a shared key: give it as jwt_key"),
        ('{"keys": [{"kty": "RSA", "n": "AQAB", "e": 1}]}', "key 1 is not a valid RSA key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}', "key 1 is not a valid EC key"),
        (json.dumps({"keys": [{**jwk(ec_key()), "d": "AA"}]}), "key 1 is a private key; give the public one"),
        (json.dumps({"keys": [jwk(ec_key())] * (MOST_KEYS + 1)}), f"contains more than {MOST_KEYS} keys"),
    ],
)
def test_a_bad_key_set(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    text = refused(jwks=str(path))
    assert text.startswith(f"jwt_jwks: '{path}'")
    assert reason in text


@pytest.mark.parametrize("source", ["public_key", "jwks"])
def test_hmac_and_public_keys_do_not_mix(source: str, tmp_path: Path) -> None:
    files = {"public_key": tmp_path / "key.pem", "jwks": tmp_path / "keys.json"}
    files["public_key"].write_bytes(public_pem(rsa_key()))
    write_jwks(files["jwks"], jwk(rsa_key()))
    text = refused(**{source: str(files[source])}, algorithms=["RS256", "HS256"])
    assert text == "jwt_algorithms: HS256 verifies with a shared key (jwt_key), not with public keys"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(jwks=str(tmp_path / "pipe"))


def test_short_keys_are_known() -> None:
    assert keys(key="secret")[0].short
    assert not keys(key="x" * 32)[0].short
    assert keys(key="x" * 32, algorithms=["HS512"])[0].short


members = st.dictionaries(
    st.sampled_from(["kty", "crv", "alg", "use", "kid", "key_ops", "n", "e", "x", "y", "d", "k"]),
    st.one_of(
        st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "Ed448", "sig", "AQAB", "verify", *SIGNATURES]),
        st.text(max_size=9),
        st.integers(),
        st.none(),
        st.lists(st.text(max_size=9), max_size=2),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    ),
)


@given(st.lists(members, max_size=3))
def test_any_key_set_is_taken_or_refused_with_a_reason(found: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_jwks(Path(folder) / "keys.json", *found)
        try:
            taken = keys(jwks=str(path))
        except SettingsError:
            assert refused(jwks=str(path)).startswith("jwt_jwks: ")
        else:
            assert taken
            assert all(set(key.algorithms) <= set(SIGNATURES) for key in taken)

"""Tokens and keys for tests. HMAC tokens are put together by hand, so that any header and payload can be had."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

# Values that are found again wherever they leak.
SECRET = "shared-5ecre7-do-not-show-0123456789"
NOW = 1_800_000_000

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def hmac_token(claims: dict[str, Any] | bytes, secret: str | bytes = SECRET, **header: Any) -> str:
    """Signed with HMAC-SHA256, whatever `alg` in `header` says; `claims` may be the payload's very bytes."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{segment(json.dumps({'alg': 'HS256', 'typ': 'JWT', **header}).encode())}.{segment(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{segment(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def unsigned_token(claims: dict[str, Any], algorithm: str = "none") -> str:
    return f"{segment(json.dumps({'alg': algorithm}).encode())}.{segment(json.dumps(claims).encode())}."


def token(claims: dict[str, Any], key: PrivateKey, algorithm: str, **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


def bearer(value: str, scheme: str = "Bearer") -> tuple[str, str]:
    return "Authorization", f"{scheme} {value}"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same for the same arguments."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """The public key as a JWK; a member None is left out."""
    algorithm: Any = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    name = next((name for kind, name in algorithm.items() if isinstance(key, kind)), "EdDSA")
    made = json.loads(jwt.get_algorithm_by_name(name).to_jwk(key.public_key())) | members
    return {member: value for member, value in made.items() if value is not None}


def write_jwks(path: Path, *keys: Any) -> Path:
    path.write_text(json.dumps({"keys": list(keys)}))
    return path

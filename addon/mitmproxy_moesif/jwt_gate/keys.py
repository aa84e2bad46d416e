"""The keys for verifying tokens: a shared one, a PEM file, or a JWKS file.

Each key is bound to its algorithms before any token is read, so that a token cannot choose another use of it (HMAC with
a public key as the secret). Files may only have public keys. The algorithm `none` is not supported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms

from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.jwt_gate.settings import HMAC, SIGNATURES, GateSettings

MOST_BYTES = 1_000_000
MOST_KEYS = 100
"""Limit, since a token without a key id is tried with every key of its type."""

RSA = frozenset(name for name in SIGNATURES if name[:2] in ("RS", "PS"))
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}

# A key type of RFC 7517, and an algorithm with which PyJWT parses keys of this type.
KEY_TYPES = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
JWK_CURVES = frozenset({"P-256", "P-384", "P-521", "secp256k1", "Ed25519", "Ed448"})

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key with its id (None: it has none) and the algorithms that it verifies."""

    kid: str | None
    algorithms: Mapping[str, Algorithm]
    material: Any = field(repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        verifier = self.algorithms.get(algorithm)
        return verifier is not None and verifier.verify(signed, self.material, signature)

    @property
    def short(self) -> bool:
        """Whether the key is shorter than its algorithm requires (RFC 7518), and may be guessed."""
        return any(verifier.check_key_length(self.material) is not None for verifier in self.algorithms.values())


def load_keys(settings: GateSettings) -> tuple[Key, ...]:
    """Read the keys named in the settings; empty if none is named. Raises `SettingsError`."""
    named = [name for name in ("jwt_key", "jwt_public_key", "jwt_jwks") if getattr(settings, name) is not None]
    if len(named) > 1:
        raise SettingsError(f"{' and '.join(named)}: only one of them may be given")
    if not named and settings.jwt_algorithms:
        raise SettingsError("jwt_algorithms: nothing is verified without jwt_key, jwt_public_key or jwt_jwks")
    if settings.jwt_key is not None:
        return (_shared_key(settings.jwt_key.get_secret_value(), _allowed(settings, HMAC, ("HS256",))),)
    if settings.jwt_public_key is not None:
        materials = _pem_materials("jwt_public_key", settings.jwt_public_key)
        return _usable(settings, "jwt_public_key", [(None, None, material) for material in materials])
    if settings.jwt_jwks is not None:
        return _usable(settings, "jwt_jwks", list(_jwks_materials("jwt_jwks", settings.jwt_jwks)))
    return ()


def _allowed(settings: GateSettings, possible: Sequence[str], default: Sequence[str]) -> Sequence[str]:
    """The algorithms to accept. Mixing both kinds is refused: a public key could be used as an HMAC secret."""
    for name in settings.jwt_algorithms:
        if name not in possible:
            kind = "a shared key (jwt_key), not with public keys" if name in HMAC else "public keys, not with jwt_key"
            raise SettingsError(f"jwt_algorithms: {name} verifies with {kind}")
    return settings.jwt_algorithms or default


def _shared_key(secret: str, allowed: Sequence[str]) -> Key:
    algorithms = _bind(frozenset(allowed))
    try:
        material = algorithms[allowed[0]].prepare_key(secret.encode(errors="surrogateescape"))
    except jwt.InvalidKeyError:
        reason = "is a public key, a certificate or a JWK: give its file as jwt_public_key or jwt_jwks"
        raise SettingsError(f"jwt_key: {reason}") from None
    return Key(None, algorithms, material)


def _usable(
    settings: GateSettings, option: str, found: Sequence[tuple[str | None, str | None, Any]]
) -> tuple[Key, ...]:
    """The keys that can verify accepted algorithms; `found` has id, algorithm (None: any of its type) and material."""
    allowed = _allowed(settings, SIGNATURES, SIGNATURES)
    keys = []
    for kid, algorithm, material in found:
        names = algorithms_of(material) & frozenset(allowed)
        if names := names & {algorithm} if algorithm is not None else names:
            keys.append(Key(kid, _bind(names), material))
    if not 0 < len(keys) <= MOST_KEYS:
        count = "no key" if not keys else f"more than {MOST_KEYS} keys"
        raise SettingsError(f"{option}: {getattr(settings, option)!r} contains {count} for {', '.join(allowed)}")
    return tuple(keys)


def algorithms_of(material: object) -> frozenset[str]:
    """The algorithms of a public key with this type and curve."""
    match material:
        case RSAPublicKey():
            return RSA
        case EllipticCurvePublicKey():
            return frozenset({CURVES[material.curve.name]} if material.curve.name in CURVES else ())
        case Ed25519PublicKey() | Ed448PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()


def _bind(names: frozenset[str]) -> dict[str, Algorithm]:
    return {name: algorithm for name, algorithm in get_default_algorithms().items() if name in names}


def _pem_materials(option: str, path: str) -> Iterator[Any]:
    blocks = list(_PEM.finditer(_read(option, path)))
    if not blocks:
        raise SettingsError(f"{option}: {path!r} is not a PEM file")
    for number, block in enumerate(blocks, 1):
        label = block[1].decode()
        if "PRIVATE" in label:
            raise SettingsError(f"{option}: {path!r} contains a private key; give the public one")
        try:
            if label == "CERTIFICATE":
                yield x509.load_pem_x509_certificate(block[0]).public_key()
            else:
                yield load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            raise SettingsError(f"{option}: {path!r}: block {number} ({label}) is not a public key") from None


def _jwks_materials(option: str, path: str) -> Iterator[tuple[str | None, str | None, Any]]:
    """Id, algorithm and material of each key for signatures; keys of unknown types are skipped."""
    content = _read(option, path)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise SettingsError(f"{option}: {path!r} is not JSON") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise SettingsError(f"{option}: {path!r} is not a key set: expected an object with the list `keys`")
    for number, jwk in enumerate(keys, 1):
        where = f"{option}: {path!r}: key {number}"
        if not isinstance(jwk, dict):
            raise SettingsError(f"{where} is not an object")
        if _signs(jwk):
            yield _text(jwk, "kid"), _text(jwk, "alg"), _jwk_material(where, jwk)


def _signs(jwk: Mapping[str, Any]) -> bool:
    """Whether the key is for verifying signatures, as far as it says."""
    operations, key_type, curve = jwk.get("key_ops"), _text(jwk, "kty"), _text(jwk, "crv")
    known = key_type in ("oct", "RSA") or (key_type in KEY_TYPES and curve in JWK_CURVES)
    verifies = not isinstance(operations, list) or "verify" in operations
    return known and verifies and jwk.get("use", "sig") == "sig"


def _text(jwk: Mapping[str, Any], name: str) -> str | None:
    value = jwk.get(name)
    return value if isinstance(value, str) else None


def _jwk_material(where: str, jwk: dict[str, Any]) -> Any:
    if jwk["kty"] == "oct":
        raise SettingsError(f"{where} is a shared key: give it as jwt_key")
    if "d" in jwk:
        raise SettingsError(f"{where} is a private key; give the public one")
    try:
        return jwt.PyJWK(jwk, KEY_TYPES[jwk["kty"]]).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        raise SettingsError(f"{where} is not a valid {jwk['kty']} key") from None


def _read(option: str, path: str) -> bytes:
    if "-----BEGIN" in path or path.lstrip().startswith("{"):
        raise SettingsError(f"{option}: expected the name of a file, not a key")  # it may be a private key
    try:
        file = Path(path).expanduser()
        regular = file.is_file() or not file.exists()  # reading a pipe would block for ever
        content = _start(file) if regular else b""
    except OSError as error:
        raise SettingsError(f"{option}: {path!r} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError):  # a null byte, or `~` of an unknown user
        raise SettingsError(f"{option}: {path!r} is not a path") from None
    if not regular:
        raise SettingsError(f"{option}: {path!r} is not a file")
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{option}: {path!r} is larger than {MOST_BYTES} bytes")
    return content


def _start(file: Path) -> bytes:
    """Read at most one byte more than allowed."""
    with file.open("rb") as stream:
        return stream.read(MOST_BYTES + 1)

"""The laws of proxy/tls.py that need no connection; test_proxy.py has the others."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from mitmproxy import exceptions
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons
from OpenSSL import SSL

from mitmproxy_moesif.proxy.tls import Tls, has_said_goodbye
from tests.support.h2 import make_certificate


def test_no_option_makes_an_authority(tmp_path: Path) -> None:
    """All of them, also those that a later mitmproxy adds: a change of any could have it make one, or read one."""
    tls = Tls()
    with taddons.context(Proxyserver(), tls) as context:
        context.options.update(confdir=str(tmp_path))
        # mitmproxy before 12.3 fails at the versions where OpenSSL has no SSLv3.
        names = {name for name in context.options.keys() if not name.startswith("tls_version_")}  # noqa: SIM118
        tls.configure(names - {"certs"})
        assert not tls.certstore
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that cannot be served with, and some that can."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "other").mkdir()
    certificate, key = (path.read_bytes() for path in make_certificate(folder))
    other_key = make_certificate(folder / "other")[1].read_bytes()
    protection = BestAvailableEncryption(b"right")
    encrypted = load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    contents = {
        "both": certificate + key,
        "encrypted": certificate + encrypted,
        "mismatch": certificate + other_key,
        "cut": certificate[:300] + b"\n" + key,
        "text": b"a\n",
    }
    for name, content in contents.items():
        (folder / f"{name}.pem").write_bytes(content)
    return folder


def refusal(folder: Path, **given: str) -> str:
    """What is said where options name files of the folder; empty where they are taken."""
    tls = Tls()
    with taddons.context(Proxyserver(), tls) as context:
        context.options.update(confdir=str(folder))
        try:
            context.options.update(**{name: [value] if name == "certs" else value for name, value in given.items()})
        except exceptions.OptionsError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("file", "passphrase", "said"),
    [
        ("both.pem", None, ""),
        ("encrypted.pem", "right", ""),
        ("encrypted.pem", None, "its private key is encrypted, and cert_passphrase does not open it"),
        ("encrypted.pem", "wrong", "its private key is encrypted, and cert_passphrase does not open it"),
        ("mismatch.pem", None, "its private key is not that of its certificate"),
        ("cut.pem", None, "the certificate or the private key in it cannot be read"),
        ("certificate.pem", None, "there is no private key in it: add it behind the certificate"),
        ("key.pem", None, "there is no certificate in it: it needs one and its private key, as PEM"),
        ("text.pem", None, "there is no certificate in it: it needs one and its private key, as PEM"),
        ("absent.pem", None, "No such file or directory"),
    ],
)
def test_a_certificate_that_cannot_be_served_is_told_with_what_is_wrong(
    files: Path, file: str, passphrase: str | None, said: str
) -> None:
    given = {"cert_passphrase": passphrase} if passphrase is not None else {}
    assert refusal(files, **given, certs=f"*={files / file}") == (said and f"certificate {files / file}: {said}")


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("ssl_verify_upstream_trusted_ca", "certificate.pem", ""),
        ("ssl_verify_upstream_trusted_ca", "absent.pem", "No such file or directory"),
        ("ssl_verify_upstream_trusted_ca", "other", "Is a directory"),
        ("ssl_verify_upstream_trusted_ca", "text.pem", "holds no certificates"),
        ("ssl_verify_upstream_trusted_confdir", "other", ""),
        ("ssl_verify_upstream_trusted_confdir", "absent", "there is no such folder"),
        ("client_certs", "both.pem", ""),
        ("client_certs", "other", ""),
        ("client_certs", "text.pem", "needs a certificate and its private key, not encrypted, as PEM"),
        ("client_certs", "encrypted.pem", "needs a certificate and its private key, not encrypted, as PEM"),
    ],
)
def test_what_tls_toward_the_upstream_cannot_be_made_with_is_refused(
    files: Path, option: str, file: str, said: str
) -> None:
    """It would be a 502 for each request, and a traceback in the log."""
    assert refusal(files, **{option: str(files / file)}) == (said and f"{option}: {files / file}: {said}")


@pytest.mark.parametrize("refuses", [False, True])
def test_an_alert_is_no_goodbye_whatever_openssl_says_afterwards(tmp_path: Path, refuses: bool) -> None:
    """Before its version 4 it says that the peer has closed, as it does after a goodbye."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(*make_certificate(tmp_path))
    settings.verify_mode = ssl.CERT_REQUIRED if refuses else ssl.CERT_NONE
    to_peer, from_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = settings.wrap_bio(to_peer, from_peer, server_side=True)
    tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    tls.set_connect_state()
    assert not has_said_goodbye(tls)
    for step in (peer.do_handshake, peer.do_handshake, peer.unwrap):
        with suppress(SSL.Error):
            tls.recv(1)
        with suppress(SSL.Error):
            to_peer.write(tls.bio_read(1 << 16))
        with suppress(ssl.SSLError):
            step()
        if from_peer.pending:
            tls.bio_write(from_peer.read())
    with pytest.raises(SSL.Error):
        tls.recv(1)
    assert tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN
    assert has_said_goodbye(tls) is not refuses

"""TLS to clients with the given certificates only, or no TLS at all.

mitmproxy creates its own certificate authority and signs certificates for any name that a client asks for. It also
accepts TLS and plain HTTP on the same port. A reverse proxy must do neither: with a certificate it speaks only TLS,
without one only plain HTTP.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from mitmproxy import certs, ctx, exceptions
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.net import tls as net_tls
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import is_h3_alpn
from mitmproxy.proxy.layers.modes import ReverseProxy
from mitmproxy.proxy.layers.tls import TLSLayer
from mitmproxy.proxy.tunnel import TunnelLayer
from OpenSSL import SSL, crypto

from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.proxy.configuration import UPSTREAM_FILES
from mitmproxy_moesif.speedups.replacing import replacement

AUTHORITY = frozenset({"certs", "confdir", "key_size", "cert_passphrase", "emudhra", "emudhra_old"})
"""Options whose change makes mitmproxy create or read its certificate authority."""

MOST_CONTEXTS = 256
"""Maximum number of cached TLS contexts, as in mitmproxy."""

SESSIONS = b"moesif-proxy"
"""The session id context, the same for all sessions. Without it, OpenSSL fails the handshake if a client that must send
a certificate resumes a session."""

PLAIN_ON_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"The plain HTTP request was sent to an HTTPS port\n"
)


class Tls(TlsConfig):
    """mitmproxy's TLS addon with the given certificates only. Comes before `NextLayer` in the addon order."""

    name = "tlsconfig"
    request = None  # type: ignore[assignment]
    """Disabled: mitmproxy's hook answers requests for its authority's revocation list."""

    def running(self) -> None:
        """Does nothing: mitmproxy's own hook creates the authority."""

    def configure(self, updated: Iterable[str]) -> None:
        TlsConfig.configure(self, set(updated) - AUTHORITY)
        if not UPSTREAM_FILES.isdisjoint(updated):
            upstreams.files = read_upstream_files()
        if "certs" in updated:
            self.certstore = read_certificates(ctx.options.certs)
            client_context.cache_clear()  # it holds the old certificates

    @property
    def in_force(self) -> InForce:
        """What was read from files and is now in force."""
        return InForce(self.certstore, upstreams.files)

    def put_back(self, earlier: InForce) -> None:
        """Restore earlier files, after another addon has refused a change that came with newer ones."""
        self.certstore, upstreams.files = earlier
        client_context.cache_clear()

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        layers = nextlayer.context.layers
        if len(layers) != 1 or not isinstance(layers[0], ReverseProxy):
            return
        start = nextlayer.data_client()
        if len(start) < 3 and b"\x16\x03".startswith(start):
            raise exceptions.AddonHalt  # not enough data to decide
        is_tls = starts_like_tls_record(start)
        if is_tls != (self.certstore is not None):
            nextlayer.layer = Refusal(nextlayer.context, b"" if is_tls else PLAIN_ON_TLS)


@lru_cache(256)
def client_context(
    *, chain_file: tuple[certs.Cert, ...], alpn_select_callback: Callable[..., Any], **given: Any
) -> SSL.Context:
    """The TLS context for client connections: like mitmproxy's, cached as many, but for `GivenCertificates`."""
    select = partial(select_over_tcp, alpn_select_callback)
    context: SSL.Context = stock_client_context.__wrapped__(chain_file=None, alpn_select_callback=select, **given)
    store = context.get_cert_store()
    assert store is not None
    for each in chain_file:
        store.add_cert(each.to_pyopenssl())  # OpenSSL sends those that chain the certificate to its authority
    context.set_session_id(SESSIONS)
    return context


@dataclass(slots=True, eq=False)
class UpstreamFiles:
    """Files for TLS to upstreams, read when they came into force: later a file may be gone or half-written.

    `shown` is the content of `client_certs` if that is a file, for upstreams that ask for a certificate. `contexts` are
    the TLS contexts created so far, by their arguments; they hold the content of the other files.
    """

    shown: bytes | None = None
    contexts: dict[frozenset[tuple[str, Any]], SSL.Context] = field(default_factory=dict)


@dataclass(slots=True)
class Upstreams:
    files: UpstreamFiles


upstreams = Upstreams(UpstreamFiles())
"""The files of this process's proxy."""


class InForce(NamedTuple):
    certificates: Any
    upstream_files: UpstreamFiles


def upstream_context(*, client_cert: str | None, **given: Any) -> SSL.Context:
    """The TLS context for upstream connections: like mitmproxy's, but from `UpstreamFiles`.

    `client_cert` is the file that mitmproxy found for this upstream, if `client_certs` is a folder.
    """
    files = upstreams.files
    shown = None if files.shown is not None else client_cert
    key = frozenset({**given, "client_cert": shown}.items())
    if (context := files.contexts.get(key)) is None:
        context = stock_upstream_context.__wrapped__(client_cert=shown, **given)
        if files.shown is not None:
            show(context, files.shown)
        if len(files.contexts) >= MOST_CONTEXTS:
            files.contexts.clear()
        files.contexts[key] = context
    return context


def show(context: SSL.Context, content: bytes) -> None:
    """Use the certificate, its chain and its key in `content` (PEM). Raises `ValueError` or OpenSSL's errors."""
    first, *others = x509.load_pem_x509_certificates(content)
    read = crypto.load_privatekey(crypto.FILETYPE_PEM, content, b"")  # without a passphrase it would prompt for one
    key: Any = read.to_cryptography_key()
    context.use_privatekey(key)
    context.use_certificate(first)
    for each in others:
        context.add_extra_chain_cert(each)
    context.check_privatekey()
    SSL._lib.SSL_CTX_set_post_handshake_auth(context._context, 1)  # type: ignore[attr-defined]  # noqa: SLF001 - as mitmproxy


def select_over_tcp(select: Callable[..., Any], connection: SSL.Connection, offers: Sequence[bytes]) -> Any:
    """Like mitmproxy's callback, but without HTTP/3: mitmproxy agrees to it even over TCP, and then crashes."""
    return select(connection, [each for each in offers if not is_h3_alpn(each)])


def receive_close(self: TLSLayer) -> layer.CommandGenerator[None]:
    """Like mitmproxy's, but only a close_notify counts as a close that was already reported.

    mitmproxy treats any alert as one, so clients of an upstream that refuses our certificate would wait forever.
    """
    if not has_said_goodbye(self.tls):
        yield from TunnelLayer.receive_close(self)


def has_said_goodbye(tls: SSL.Connection) -> bool:
    """Whether the peer sent close_notify. After another alert, OpenSSL is in its error state."""
    return bool(tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN) and tls.get_state_string() != b"error"


stock_client_context = net_tls.create_client_proxy_context
stock_upstream_context = net_tls.create_proxy_server_context
REPLACEMENTS = (
    replacement(net_tls, "create_client_proxy_context", client_context),
    replacement(net_tls, "create_proxy_server_context", upstream_context),
    replacement(TLSLayer, "receive_close", receive_close),
)


class Refusal(layer.Layer):
    """Sends `answer` and closes the connection."""

    def __init__(self, context: Any, answer: bytes) -> None:
        super().__init__(context)
        self._answer = answer

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self._answer:
            yield commands.SendData(self.context.client, self._answer)
        if isinstance(event, events.DataReceived | events.ConnectionClosed):
            yield commands.CloseConnection(self.context.client)


class GivenCertificates(certs.CertStore):
    """Certificates by name, `*` for all others. Creates none."""

    def __init__(self) -> None:
        self.certs = {}
        self.expire_queue = []
        self.dhparams = None  # type: ignore[assignment]  # OpenSSL's own

    def add_cert(self, entry: certs.CertStoreEntry, *names: str) -> None:
        """Store the chain's certificates instead of its file name: the file may change before it is used."""
        chain: Any = tuple(entry.chain_certs)
        super().add_cert(replace(entry, chain_file=chain), *names)

    @property
    def default_privatekey(self) -> Any:  # type: ignore[override]  # used if a file has no key
        raise ValueError("there is no private key in it")


def read_certificates(specs: Iterable[str]) -> Any:
    """Read mitmproxy's `certs`, each `[name=]path`. The first one is the default for other names. None if empty."""
    store = GivenCertificates()
    passphrase = ctx.options.cert_passphrase
    for spec in specs:
        name, equals, path = spec.partition("=")
        file = expanded(path if equals else name)
        try:
            store.add_cert_file(name if equals else "*", file, passphrase.encode() if passphrase else None)
        except (OSError, TypeError, ValueError) as error:
            raise exceptions.OptionsError(f"certificate {file}: {trouble_of(file, error)}") from None
        store.certs.setdefault("*", next(reversed(store.certs.values())))
    return store if store.certs else None


def trouble_of(file: Path, error: Exception) -> str:
    """Why a certificate file cannot be used. The libraries' messages quote objects, or refer to their own docs."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    content = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in content:
        return "there is no certificate in it: it needs one and its private key, as PEM"
    if b"PRIVATE KEY-----" not in content:
        return "there is no private key in it: add it behind the certificate"
    if b"ENCRYPTED" in content:
        return "its private key is encrypted, and cert_passphrase does not open it"
    if "do not match" in str(error):
        return "its private key is not that of its certificate"
    return "the certificate or the private key in it cannot be read"


def read_upstream_files() -> UpstreamFiles:
    """Read the files that mitmproxy opens only at the first connection, where an error would fail each request.

    Raises `OptionsError`.
    """
    authorities, folder = ctx.options.ssl_verify_upstream_trusted_ca, ctx.options.ssl_verify_upstream_trusted_confdir
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except OSError as error:
            why = "holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise exceptions.OptionsError(f"ssl_verify_upstream_trusted_ca: {authorities}: {why}") from None
    if folder is not None and not Path(folder).is_dir():
        raise exceptions.OptionsError(f"ssl_verify_upstream_trusted_confdir: {folder}: there is no such folder")
    if not ctx.options.client_certs or not (chain := expanded(ctx.options.client_certs)).is_file():
        return UpstreamFiles()
    try:
        content = chain.read_bytes()
        show(SSL.Context(SSL.TLS_METHOD), content)
    except (OSError, ValueError, SSL.Error, crypto.Error) as error:
        needs = "needs a certificate and its private key, not encrypted, as PEM"
        why = error.strerror if isinstance(error, OSError) else needs
        raise exceptions.OptionsError(f"client_certs: {ctx.options.client_certs}: {why}") from None
    return UpstreamFiles(content)

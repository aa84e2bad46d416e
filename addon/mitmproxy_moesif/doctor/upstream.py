"""Checks whether the upstream is reachable, whether it is Kong, and whether that Kong trusts this proxy."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import orjson
import requests

from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.doctor.configuration import Subject
from mitmproxy_moesif.doctor.findings import Finding, failure, ok, warning
from mitmproxy_moesif.start_report import shown
from mitmproxy_moesif.web.session import DeadlineSession, network_reason

CHECK, KONG = "upstream", "kong"
SECONDS = 5.0
TRUST = "at Kong, set KONG_TRUSTED_IPS={address}, KONG_REAL_IP_HEADER=X-Forwarded-For and KONG_REAL_IP_RECURSIVE=on"

_VERSION = re.compile(r"\bkong/([0-9][\w.-]*)", re.IGNORECASE)


def examine(subject: Subject) -> Iterator[Finding]:
    url, settings = subject.upstream, subject.settings
    try:
        address = reach(url, subject.engine)
        answer = ask(url, subject.engine)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or "it failed"
        authority = "give its authority as --set ssl_verify_upstream_trusted_ca=FILE"
        yield failure(CHECK, f"{shown(url)}: the TLS handshake: {why}", authority)
        return
    except OSError as error:
        yield failure(CHECK, f"{shown(url)}: {network_reason(error, url)}", "start it, or give another --upstream")
        return
    yield ok(CHECK, f"{shown(url)} answers with {answer.status_code}")
    kong = kong_of(answer.headers)
    if settings.kong_admin_url is not None:
        yield from ask_admin_api(settings, address if kong is not None and subject.arguments.forwarded else None)
    elif kong is not None:
        yield ok(KONG, f"the upstream is Kong {kong}".rstrip())
        if subject.arguments.forwarded:
            text = f"only Kong's Admin API (moesif_kong_admin_url) shows whether it trusts {address}, this proxy"
            yield warning(KONG, text, TRUST.format(address=address))
    if kong is not None and settings.position == "behind":
        yield failure(KONG, "position=behind, but the upstream is Kong", "set position=front, or leave it out")


def reach(url: str, engine: Any) -> str:
    """Connect, with TLS as in mitmproxy; returns our address as the upstream sees it. Raises `OSError`."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((host, port), SECONDS) as connection:
        address: str = connection.getsockname()[0]
        if parts.scheme == "https":
            tls_context(engine, host).wrap_socket(connection, server_hostname=host).close()
    return address


def client_certificate(engine: Any, host: str) -> Path | None:
    """The file whose certificate mitmproxy shows to this host; it may be in a folder, under the host's name."""
    if not engine.client_certs:
        return None
    given = expanded(engine.client_certs)
    return next((path for path in (given, given / f"{host}.pem") if path.is_file()), None)


def tls_context(engine: Any, host: str) -> ssl.SSLContext:
    file, folder = engine.ssl_verify_upstream_trusted_ca, engine.ssl_verify_upstream_trusted_confdir
    context = ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)
    if engine.ssl_insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if (chain := client_certificate(engine, host)) is not None:
        context.load_cert_chain(chain)
    return context


def ask(url: str, engine: Any) -> requests.Response:
    """Send `HEAD /`, which changes nothing. Raises `OSError`."""
    with warnings.catch_warnings(), DeadlineSession() as session, session.deadline(SECONDS):
        warnings.simplefilter("ignore")  # `reach` has already verified the certificate
        session.trust_env = False  # mitmproxy uses no proxy for upstreams
        session.verify = False
        if (chain := client_certificate(engine, urlsplit(url).hostname or "")) is not None:
            session.cert = str(chain)
        return session.head(url, timeout=SECONDS, allow_redirects=False)


def kong_of(headers: Mapping[str, str]) -> str | None:
    """Kong's version, empty if it is hidden; None if this is not Kong."""
    for name in ("Server", "Via"):
        if (found := _VERSION.search(headers.get(name, ""))) is not None:
            return found[1]
    return "" if any(name.lower().startswith("x-kong-") for name in headers) else None


def ask_admin_api(settings: Settings, address: str | None) -> Iterator[Finding]:
    """Check the Admin API. `address`: check whether Kong trusts it; None to skip this."""
    url, token = settings.kong_admin_url or "", settings.kong_admin_token.get_secret_value()
    try:
        with DeadlineSession() as session, session.deadline(SECONDS):
            headers = {"Kong-Admin-Token": token} if token else {}
            answer = session.get(f"{url}/", headers=headers, timeout=SECONDS, allow_redirects=False)
    except OSError as error:
        yield failure(KONG, f"the Admin API: {network_reason(error, url)}", "correct kong_admin_url")
        return
    if answer.status_code in (401, 403):
        yield failure(KONG, f"the Admin API answers with {answer.status_code}", "correct kong_admin_token")
        return
    told = node(answer)
    if told is None:
        yield ok(KONG, f"the Admin API answers with {answer.status_code} and does not show its version")
        return
    yield ok(KONG, f"the Admin API answers: Kong {told.get('version')}")
    configuration = told.get("configuration")
    if address is not None and isinstance(configuration, dict):
        yield trust(configuration, address)


def node(answer: requests.Response) -> dict[str, Any] | None:
    """The response of `GET /` as Kong's node information; None for Konnect, which has none."""
    try:
        told = orjson.loads(answer.content)
    except ValueError:
        return None
    return told if isinstance(told, dict) and "version" in told else None


def trust(configuration: Mapping[str, Any], address: str) -> Finding:
    todo = TRUST.format(address=address)
    if not covers(configuration.get("trusted_ips") or (), address):
        return warning(KONG, f"Kong does not trust {address}: to Kong, all calls come from this proxy", todo)
    if str(configuration.get("real_ip_header")).lower() != "x-forwarded-for":
        return warning(KONG, "Kong does not read the client's address from X-Forwarded-For", todo)
    return ok(KONG, f"Kong trusts {address}, and reads the client's address from X-Forwarded-For")


def covers(networks: Iterable[object], address: str) -> bool:
    """Whether a network has this address. Entries that are not networks, such as `unix:`, are skipped."""
    ours = ipaddress.ip_address(address.partition("%")[0])
    for network in networks:
        try:
            if ours in ipaddress.ip_network(str(network), strict=False):
                return True
        except ValueError:
            continue
    return False

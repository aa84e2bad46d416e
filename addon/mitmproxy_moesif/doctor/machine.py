"""Checks the machine: proxies and authorities from the environment, ports, versions."""

from __future__ import annotations

import importlib.util
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from mitmproxy_moesif import __version__
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.doctor.configuration import CORRECT, Subject
from mitmproxy_moesif.doctor.findings import Finding, failure, ok, warning
from mitmproxy_moesif.speedups import versions
from mitmproxy_moesif.start_report import shown
from mitmproxy_moesif.web.access import KONG_TOKEN, Address, Gate, octets_of
from mitmproxy_moesif.web.server import bind, url_of
from mitmproxy_moesif.web.session import DeadlineSession

ENVIRONMENT, PORTS, VERSIONS = "environment", "ports", "versions"
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
SECONDS = 2.0


def environment(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the variables that affect connections to Moesif."""
    proxies = {name: url for each in PROXIES for name in (each, each.lower()) if (url := environ.get(name))}
    authorities = {name: path for name in AUTHORITIES if (path := environ.get(name))}
    problems = [problem for name, url in proxies.items() if (problem := proxy_problem(name, url)) is not None]
    problems += [problem for name, path in authorities.items() if (problem := authority_problem(name, path))]
    yield from problems
    if not problems:
        said = [f"{name}={shown(url)}" for name, url in proxies.items()]
        said += [f"{name}={path}" for name, path in authorities.items()]
        yield ok(ENVIRONMENT, ", ".join(said) or "no proxy, and the authorities in Python's certifi")


def proxy_problem(name: str, url: str) -> Finding | None:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme.startswith("socks"):
            missing = importlib.util.find_spec("socks") is None
            return (
                failure(ENVIRONMENT, f"{name}: a SOCKS proxy needs PySocks", "pip install pysocks") if missing else None
            )
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    return None if usable else failure(ENVIRONMENT, f"{name} is not the URL of a proxy", "give http://host:port")


def authority_problem(name: str, path: str) -> Finding | None:
    file = Path(path)
    if file.is_dir():
        return None
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):
        problem = "holds no certificates" if file.exists() else "does not exist"
        return failure(ENVIRONMENT, f"{name}: {path} {problem}", "give a PEM file with your authorities, or unset it")
    return None


def ports(subject: Subject) -> Iterator[Finding]:
    """Check that the ports are free. They are not if this proxy already runs, which its admin listener shows."""
    settings, wanted = subject.settings, {"--listen": subject.arguments.listen}
    if settings.admin_listen is not None:
        try:
            address = Address.parse(settings.admin_listen)
            Gate(address, settings.admin_token.get_secret_value())
        except ValueError as error:
            yield failure(PORTS, str(error), CORRECT)
        else:
            if (running := version_at(address, settings)) is not None:
                yield ok(PORTS, f"moesif-proxy {running} runs here already: {settings.admin_listen} answers")
                return
            wanted["admin_listen"] = address
    with ExitStack() as probes:  # keep both open, to detect if they are the same
        for name, address in wanted.items():
            yield port(name, address, probes)


def port(name: str, address: Address, probes: ExitStack) -> Finding:
    try:
        for probe in bind(name, address):
            probes.enter_context(probe)
    except OSError as error:
        todo = "stop what listens there, unless it is this proxy itself, or give another port"
        return failure(PORTS, str(error), todo)
    return ok(PORTS, f"{name} {address} is free")


def version_at(address: Address, settings: Settings) -> str | None:
    """The version of the proxy whose admin listener this is; None if there is none."""
    token = octets_of(settings.admin_token.get_secret_value())
    try:
        with DeadlineSession() as session, session.deadline(SECONDS):
            session.trust_env = False
            url = f"{url_of(address.host, address.port)}/"
            answer = session.get(url, headers={KONG_TOKEN: token} if token else {}, timeout=SECONDS)
        return str(orjson.loads(answer.content)["mitmproxy_moesif"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_versions() -> Finding:
    text = f"moesif-proxy {__version__}, mitmproxy {version('mitmproxy')}, Python {sys.version.split()[0]}"
    if (reason := versions.untested()) is not None:
        return warning(VERSIONS, f"{text}: {reason}", f"install mitmproxy {versions.TESTED[-1]}; others are slower")
    return ok(VERSIONS, text)


def examine(subject: Subject) -> Iterator[Finding]:
    yield from environment(os.environ)
    yield from ports(subject)

"""Proxies and authorities from the environment, and ports."""

from __future__ import annotations

import socket

import certifi
import pytest

from mitmproxy_moesif.doctor.machine import environment, ports
from tests.doctor.subjects import a_subject
from tests.support import wire
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream


@pytest.mark.parametrize(
    ("environ", "levels"),
    [
        ({}, ["ok"]),
        ({"HTTPS_PROXY": "http://user:5ecre7@proxy:3128", "NO_PROXY": "x"}, ["ok"]),
        ({"https_proxy": "proxy:3128"}, ["ok"]),
        ({"HTTPS_PROXY": "http://proxy:x"}, ["failure"]),
        ({"HTTP_PROXY": "ftp://user:5ecre7@proxy"}, ["failure"]),
        ({"HTTP_PROXY": "http://[::1"}, ["failure"]),
        ({"SSL_CERT_FILE": certifi.where(), "SSL_CERT_DIR": "/tmp"}, ["ok"]),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, ["failure"]),
        ({"REQUESTS_CA_BUNDLE": __file__, "CURL_CA_BUNDLE": "/nowhere.pem"}, ["failure", "failure"]),
    ],
)
def test_the_environment_is_looked_at(environ: dict[str, str], levels: list[str]) -> None:
    findings = list(environment(environ))
    assert [finding.level for finding in findings] == levels
    assert not any("5ecre7" in finding.line() for finding in findings)


def test_a_port_that_is_taken_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        (finding,) = ports(a_subject("http://127.0.0.1:9", "--listen", listen))
        assert finding.level == "failure"
        assert "in use" in finding.text
    (finding,) = ports(a_subject("http://127.0.0.1:9", "--listen", listen))
    assert finding.level == "ok"


@pytest.mark.parametrize(
    ("admin", "token", "text"),
    [
        ("0.0.0.0:0", "", "admin_token is needed"),
        ("0.0.0.0:0", " ", "admin_token is needed"),
        ("8095", "t0ken", "must be HOST:PORT"),
    ],
)
def test_an_admin_listener_with_which_nothing_starts_is_a_failure(admin: str, token: str, text: str) -> None:
    subject = a_subject("http://127.0.0.1:9", "--listen", "127.0.0.1:0", admin_listen=admin, admin_token=token)
    (found,) = [finding for finding in ports(subject) if finding.level == "failure"]
    assert text in found.text


def test_an_admin_listener_at_the_port_of_the_proxy_is_a_failure() -> None:
    address = f"127.0.0.1:{free_port()}"
    findings = list(ports(a_subject("http://127.0.0.1:9", "--listen", address, admin_listen=address)))
    assert [finding.level for finding in findings] == ["ok", "failure"]
    assert "admin_listen: cannot listen" in findings[1].text


def test_an_admin_listener_for_others_may_listen_with_a_token() -> None:
    subject = a_subject("http://127.0.0.1:9", "--listen", "127.0.0.1:0", admin_listen="0.0.0.0:0", admin_token="t0ken")
    assert [finding.level for finding in ports(subject)] == ["ok", "ok"]


@pytest.mark.parametrize("token", ["t0ken", "tökén", " t0ken\n"])
def test_ports_of_this_very_proxy_are_no_failure(token: str, upstream: ScriptedUpstream) -> None:
    """`upstream` stands for its admin listener."""
    admin = f"127.0.0.1:{upstream.port}"
    subject = a_subject("http://127.0.0.1:9", "--listen", admin, admin_listen=admin, admin_token=token)
    assert [finding.level for finding in ports(subject)] == ["failure", "failure"]
    upstream.answer("/", wire.response(200, [], b'{"version": "3.9", "mitmproxy_moesif": "1.2.3"}'))
    (finding,) = ports(subject)
    assert finding.level == "ok"
    assert "moesif-proxy 1.2.3 runs here already" in finding.text
    assert upstream.requests()[-1].get("kong-admin-token") == token.strip().encode().decode("latin-1")

"""Whether the upstream is reached, is Kong, and trusts this proxy."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mitmproxy_moesif.doctor.upstream import examine, kong_of
from tests.doctor.subjects import a_subject, seen
from tests.support import wire
from tests.support.h2 import make_certificate
from tests.support.upstream import Handler, ScriptedUpstream

KONG_SERVER = ("Server", "kong/3.9.3")


def answers(*headers: tuple[str, str], body: bytes = b"", status: int = 200) -> Handler:
    return lambda request, connection: connection.send(wire.response(status, headers, body))


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"Server": "kong/3.9.3"}, "3.9.3"),
        ({"Server": "nginx", "Via": "1.1 varnish, 2 kong/3.4.3.5-enterprise-edition"}, "3.4.3.5-enterprise-edition"),
        ({"X-Kong-Request-Id": "1"}, ""),
        ({"Server": "nginx", "Via": "1.1 hongkong/1"}, None),
    ],
)
def test_kong_is_known_by_its_headers(headers: dict[str, str], version: str | None) -> None:
    assert kong_of(headers) == version


def test_an_upstream_that_is_no_kong_is_only_reached(upstream: ScriptedUpstream) -> None:
    assert seen(examine(a_subject(upstream.url))) == [("upstream", "ok")]
    assert [request.method for request in upstream.requests()] == ["HEAD"]


def test_a_name_that_nobody_knows_is_a_failure() -> None:
    assert seen(examine(a_subject("http://nowhere.invalid"))) == [("upstream", "failure")]


def test_where_no_admin_api_is_given_whether_kong_trusts_us_is_open(upstream: ScriptedUpstream) -> None:
    upstream.handler = answers(KONG_SERVER, status=404)
    findings = list(examine(a_subject(upstream.url)))
    assert seen(findings) == [("upstream", "ok"), ("kong", "ok"), ("kong", "warning")]
    assert "KONG_TRUSTED_IPS=127.0.0.1" in findings[-1].todo
    assert seen(examine(a_subject(upstream.url, "--forwarded", "off"))) == [("upstream", "ok"), ("kong", "ok")]


def test_behind_kong_the_upstream_is_not_kong(upstream: ScriptedUpstream) -> None:
    upstream.handler = answers(KONG_SERVER)
    assert seen(examine(a_subject(upstream.url, position="behind")))[-1] == ("kong", "failure")


@pytest.mark.parametrize(
    ("configuration", "level"),
    [
        ({"trusted_ips": ["10.0.0.0/8", "127.0.0.0/8", "unix:"], "real_ip_header": "X-Forwarded-For"}, "ok"),
        ({"trusted_ips": ["127.0.0.1"], "real_ip_header": "X-Real-IP"}, "warning"),
        ({"trusted_ips": ["10.0.0.0/8"], "real_ip_header": "X-Forwarded-For"}, "warning"),
        ({"trusted_ips": {}, "real_ip_header": "X-Real-IP"}, "warning"),
    ],
)
def test_the_admin_api_tells_whether_kong_trusts_us(
    upstream: ScriptedUpstream, configuration: dict[str, object], level: str
) -> None:
    with ScriptedUpstream() as admin:
        empty = json.dumps({"data": []}).encode()
        admin.handler = answers(body=empty)
        admin.answer("/", answers(body=json.dumps({"version": "3.9.3", "configuration": configuration}).encode()))
        upstream.handler = answers(KONG_SERVER)
        subject = a_subject(upstream.url, kong_admin_url=admin.url, kong_admin_token="t0ken")
        assert seen(examine(subject)) == [("upstream", "ok"), ("kong", "ok"), ("kong", level)]
        assert admin.requests()[-1].get("kong-admin-token") == "t0ken"
        admin.answer("/", answers(status=401))
        assert seen(examine(subject)) == [("upstream", "ok"), ("kong", "failure")]


class Plain(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def tls_upstream(chain: Path, key: Path, *, asks: bool = False) -> Iterator[str]:
    """The URL of a server that has this certificate; where it `asks`, clients have to show the same one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    if asks:
        context.load_verify_locations(chain)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3, a client learns too late that it was refused
    server = HTTPServer(("127.0.0.1", 0), Plain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_certificate_of_an_unknown_authority_is_a_failure(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path)
    with tls_upstream(chain, key) as url:
        (finding,) = examine(a_subject(url))
        assert finding.level == "failure"
        assert "self-signed" in finding.text
        assert seen(examine(a_subject(url, ssl_insecure=True))) == [("upstream", "ok")]
        assert seen(examine(a_subject(url, ssl_verify_upstream_trusted_ca=str(chain)))) == [("upstream", "ok")]


def test_the_client_certificate_is_a_file_or_in_a_folder_under_the_upstream_s_name(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path)
    folder = tmp_path / "shown"
    folder.mkdir()
    shown = folder / "127.0.0.1.pem"
    shown.write_bytes(chain.read_bytes() + key.read_bytes())
    with tls_upstream(chain, key, asks=True) as url:
        for given, level in (("", "failure"), (str(tmp_path), "failure"), (str(folder), "ok"), (str(shown), "ok")):
            subject = a_subject(url, ssl_verify_upstream_trusted_ca=str(chain), client_certs=given)
            assert seen(examine(subject)) == [("upstream", level)], given

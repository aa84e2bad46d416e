"""`moesif-proxy` in one process: what passes, what is captured, how it starts, reloads and ends."""

from __future__ import annotations

import signal
import socket
import ssl
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import APPLICATION_ID, wire
from tests.support.addon import addon_options, exit_counts, only_event
from tests.support.authority import Certified
from tests.support.client import Client, encode_request, exchange, trusting
from tests.support.collector import ScriptedCollector
from tests.support.h2 import make_certificate, make_pem
from tests.support.moesif_proxy import MoesifProxy, failed, scripted
from tests.support.ports import free_port
from tests.support.proxy import StartError
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., MoesifProxy]

BODY = b'{"n": 1}'
ACCEPTED = "the application id is accepted"


def test_an_exchange_passes_and_is_captured_as_the_client_sent_it(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    answer = exchange(proxy.port, "POST", "/orders?x=1", [("X-Forwarded-For", "203.0.113.9"), ("a", "1")], BODY)
    assert answer is not None
    assert answer.body == b'{"ok": true}'
    (request,) = upstream.requests()
    assert (request.method, request.target, request.body) == ("POST", "/orders?x=1", BODY)
    assert request.get("host") == "api.example.com"
    assert request.get("x-forwarded-for") == "203.0.113.9, 127.0.0.1"
    assert request.get("x-forwarded-proto") == "http"
    assert request.get("x-forwarded-host") == "api.example.com"
    assert request.get("x-forwarded-port") == str(proxy.port)
    event = only_event(collector)
    assert event["request"]["headers"]["x-forwarded-for"] == "203.0.113.9"
    added = {"x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"}
    assert not added & {name.lower() for name in event["request"]["headers"]}
    assert event["request"]["body"] == {"n": 1}
    assert event["response"]["body"] == {"ok": True}
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["delivered"] == 1


def test_forwarded_off_adds_nothing(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--forwarded", "off")
    exchange(proxy.port)
    (request,) = upstream.requests()
    assert not [name for name, _ in request.headers if name.lower().startswith("x-forwarded")]


def test_it_says_little(moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    proxy.wait_for_output(ACCEPTED)
    for _ in range(3):
        exchange(proxy.port, "POST", "/x", body=BODY)
    collector.wait_for(3)
    assert proxy.stop() == 0
    listening, *block, accepted, summary = proxy.output.splitlines()
    assert ACCEPTED in accepted
    assert listening.endswith(f"moesif-proxy: listening at 127.0.0.1:{proxy.port}, passing to {upstream.url}")
    assert [line.split()[0] for line in block[1:]] == ["upstream:", "events", "spool:", "masks:"]
    assert summary == "moesif: captured 3, delivered 3, waiting 0, dropped 0"


def test_another_addon(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    other = scripted(tmp_path, "def requestheaders(flow): flow.request.headers['X-Other'] = '1'\n")
    proxy = moesif_proxy(upstream.url, addon_options(collector), *other)
    exchange(proxy.port)
    (request,) = upstream.requests()
    assert request.get("x-other") == "1"


def test_an_upstream_that_refuses_is_a_502(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    upstream.refuse()
    answer = exchange(proxy.port)
    assert answer is not None
    assert answer.status == only_event(collector)["response"]["status"] == 502


# --- start -------------------------------------------------------------------------------------------------------

LONG_END = ("--set", "moesif_shutdown_timeout=3600000")
"""What a start that fails would wait for, if it waited for what has not begun."""


@pytest.mark.parametrize(
    ("workers", "arguments", "said"),
    [
        ("1", ["--set", "moesif_batch_size=x"], "batch_size: must be a whole number"),
        ("2", ["--set", "moesif_batch_size=x"], "batch_size: must be a whole number"),
        ("1", ["--set", "no_such_option=1", *LONG_END], "no_such_option: there is no such option"),
        ("1", ["--set", "batch_size=1", *LONG_END], "batch_size: there is no such option; did you mean moesif_"),
        ("1", ["--set", "moesif_admin_token"], "admin_token: no value was given: --set moesif_admin_token=..."),
        ("1", ["--set", "moesif_batch_size"], "batch_size: no value was given: --set moesif_batch_size=..."),
        ("1", ["--set", "http2=maybe"], "http2"),
        ("2", ["-s", "missing.py"], "No such script"),
        ("1", ["--config", "list.yaml"], "must be a mapping of option names to values"),
        ("1", ["--config", "port.yaml"], "listen_port: is given by --listen"),
        ("1", ["--tls-cert", "list.yaml"], "list.yaml: "),
    ],
)
def test_a_start_that_fails_is_one_line_and_code_1(
    workers: str, arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "list.yaml").write_text("- one\n- two\n")
    (tmp_path / "port.yaml").write_text("listen_port: 1\n")
    given = ["--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0", "--workers", workers, "--set", "confdir=."]
    ended = failed(*given, "--set", f"moesif_application_id={APPLICATION_ID}", *arguments, folder=tmp_path)
    assert ended.returncode == 1, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("moesif: captured 0,")]
    assert len(lines) == 1, ended.stderr
    assert said in lines[0]
    assert APPLICATION_ID not in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line(workers: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ["--upstream", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{port}", "--workers", workers]
        options = ["--set", "confdir=.", "--set", f"moesif_application_id={APPLICATION_ID}"]
        ended = failed(*given, *options, folder=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.endswith(f"cannot listen on 127.0.0.1:{port}: address already in use")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_the_admin_listener_has_is_told_without_a_traceback(workers: str, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    given = ["--upstream", "http://127.0.0.1:9", "--listen", address, "--workers", workers, "--set", "confdir=."]
    options = [f"moesif_application_id={APPLICATION_ID}", "moesif_api_endpoint=http://127.0.0.1:9"]
    options.append(f"moesif_admin_listen={address}")
    ended = failed(*given, *(word for option in options for word in ("--set", option)), folder=tmp_path)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if " ERROR " in line]
    assert f"cannot listen on {address}: address already in use" in line.lower()
    assert "Traceback" not in ended.stderr


def test_two_proxies_do_not_share_a_port_by_mistake(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    with pytest.raises(StartError) as failed_start:
        moesif_proxy(upstream.url, addon_options(collector), workers=2, listen=f"127.0.0.1:{proxy.port}")
    assert "address already in use" in failed_start.value.output


def test_an_upstream_has_to_be_given(tmp_path: Path) -> None:
    ended = failed("--listen", "127.0.0.1:0", "--set", "confdir=.", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("there is no upstream: give --upstream URL")


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_pem(tmp_path)


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port))


def test_tls_with_the_given_certificate(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, certificate: Path
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(certificate))
    context = ssl.create_default_context(cafile=str(certificate))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", proxy.port), 10), server_hostname="localhost") as s:
        s.sendall(b"GET /tls HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: s.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    (request,) = upstream.requests()
    assert request.get("x-forwarded-proto") == "https"
    assert only_event(collector)["request"]["uri"].startswith("https://")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows_one", [True, False])
def test_a_client_that_is_asked_for_a_certificate_may_resume(
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    certificate: Path,
    version: ssl.TLSVersion,
    *,
    shows_one: bool,
) -> None:
    given = addon_options(collector) | {"request_client_cert": True}
    proxy = moesif_proxy(upstream.url, given, "--tls-cert", str(certificate))
    context = trusting()
    context.maximum_version = version
    if shows_one:
        context.load_cert_chain(certificate)
    session = None
    resumed = []
    for _ in range(3):
        plain = socket.create_connection(("127.0.0.1", proxy.port), 10)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as secured:
            secured.sendall(encode_request("GET", "/"))
            assert secured.recv(65_536).startswith(b"HTTP/1.1 200 ")
            session = secured.session
            resumed.append(secured.session_reused)
    assert resumed == [False, True, True]


@pytest.mark.parametrize("pieces", [[b"GET / HTTP/1.1\r\n\r\n"], [b"G", b"ET / HTTP/1.1\r\n\r\n"]])
def test_plain_http_on_a_tls_port_is_refused(
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    certificate: Path,
    pieces: list[bytes],
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(certificate))
    with Client(proxy.port) as client:
        client.send(*pieces)
        answer = client.read_response()
    assert answer is not None
    assert answer.status == 400
    assert not upstream.requests()


# --- reload ------------------------------------------------------------------------------------------------------


def test_sighup_applies_the_file_to_connections_that_are_open(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_api_version: first\nmoesif_request_header_masks: [x-secret]\n")
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--config", str(config))
    with Client(proxy.port) as client:
        client.exchange("GET", "/first", [("X-Secret", "1")])
        config.write_text("moesif_api_version: second\n")
        proxy.send_signal(signal.SIGHUP)
        output = proxy.wait_for_output("the configuration was read again")
        client.exchange("GET", "/second", [("X-Secret", "1")])
    assert "moesif_api_version, moesif_request_header_masks changed" in output
    first, second = sorted(collector.wait_for(2), key=lambda event: event["request"]["api_version"])
    assert (first["request"]["api_version"], second["request"]["api_version"]) == ("first", "second")
    assert "x-secret" not in first["request"]["headers"]
    assert second["request"]["headers"]["x-secret"] == "1"


REFUSED = {
    "moesif_batch_size: 0": "batch_size: should be greater than or equal to 1",
    "moesif_batch_size: many": "moesif_batch_size: must be a whole number in /",
    "moesif_batch_sise: 5": "there is no such option; did you mean moesif_batch_size?",
    "moesif_jwt_gate: true": "there is no such option; did you mean jwt_gate?",
    "batch_size: 5": "there is no such option; did you mean moesif_batch_size?",
    "moesif_spool_dir: /elsewhere": "spool_dir: can only be set at the start",
    "a: [": "Config error",
    "mode: [regular]": "mode: must be a list of one reverse:http",
    "listen_port: 1": "listen_port: is given by --listen",
}


def test_a_file_that_cannot_be_taken_leaves_everything_as_it_was(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_api_version: kept\n")
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--config", str(config))
    proxy.wait_for_output(ACCEPTED)  # the last line of a start
    for content, said in REFUSED.items():
        config.write_text(f"moesif_api_version: lost\n{content}\n")
        before = len(proxy.output.splitlines())
        proxy.send_signal(signal.SIGHUP)
        (line,) = wait_for_lines(proxy, before)
        assert "the configuration was refused, the old one stays: " in line
        assert said in line
    exchange(proxy.port)
    assert only_event(collector)["request"]["api_version"] == "kept"


def wait_for_lines(proxy: MoesifProxy, before: int) -> list[str]:
    """What was said after the first so many lines."""
    deadline = time.monotonic() + 10
    while not (said := proxy.output.splitlines()[before:]):
        assert time.monotonic() < deadline, "nothing was said"
        time.sleep(0.02)
    return said


def test_what_the_command_line_gives_is_not_the_files(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_api_version: file\n")
    proxy = moesif_proxy(upstream.url, addon_options(collector, api_version="line"), "--config", str(config))
    config.write_text("moesif_api_version: file-again\nkeep_host_header: false\n")
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("the configuration was read again: keep_host_header changed")
    exchange(proxy.port)
    assert only_event(collector)["request"]["api_version"] == "line"
    assert upstream.requests()[0].get("host") == f"127.0.0.1:{upstream.port}"


def test_a_renewed_certificate_is_served_after_sighup(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, certificate: Path, tmp_path: Path
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(certificate))
    before = served_certificate(proxy.port)
    chain, key = make_certificate(tmp_path)
    certificate.write_bytes(chain.read_bytes() + key.read_bytes())
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("read again")
    assert served_certificate(proxy.port) == chain.read_text() != before


def test_the_chain_of_a_renewed_certificate_is_served_with_it(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Authorities change what stands between theirs and a server's certificate. A client knows only theirs."""
    root = Certified("root", is_authority=True)
    file = tmp_path / "chain.pem"
    context = ssl.create_default_context(cadata=root.pem.decode())
    proxy = None
    for number in range(2):
        between = Certified(f"between {number}", root, is_authority=True)
        leaf = Certified("localhost", between)
        file.write_bytes(leaf.pem + leaf.key_pem + between.pem)
        if proxy is None:
            proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(file))
        else:
            proxy.send_signal(signal.SIGHUP)
            proxy.wait_for_output("read again")
        with Client(proxy.port, tls=context) as client:
            assert client.exchange("GET", "/") is not None


def test_a_renewed_certificate_waits_for_what_was_refused_with_it(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, certificate: Path, tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def identify_user(exchange):\n    return None\n")
    options = addon_options(collector, hooks=str(hooks))
    proxy = moesif_proxy(upstream.url, options, "--tls-cert", str(certificate))
    before = served_certificate(proxy.port)
    make_pem(certificate.parent)
    working = hooks.read_text()
    hooks.write_text("def (:\n")
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("the configuration was refused, the old one stays: ")
    assert served_certificate(proxy.port) == before
    hooks.write_text(working)
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("read again")
    assert served_certificate(proxy.port) != before


def test_a_broken_certificate_leaves_the_old_one(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, certificate: Path
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(certificate))
    before = served_certificate(proxy.port)
    certificate.write_text("no certificate")
    proxy.send_signal(signal.SIGHUP)
    output = proxy.wait_for_output("the configuration was refused, the old one stays: ")
    (refusal,) = [line for line in output.splitlines() if "the configuration was refused" in line]
    assert str(certificate) in refusal
    assert served_certificate(proxy.port) == before


@pytest.mark.parametrize("reloads", [False, True])
def test_a_certificate_is_served_as_it_was_read(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, certificate: Path, *, reloads: bool
) -> None:
    """Nobody has asked for it when its file goes."""
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--tls-cert", str(certificate))
    if reloads:
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_output("read again")
    certificate.unlink()
    with Client(proxy.port, tls=trusting()) as client:
        assert client.exchange("GET", "/") is not None


@pytest.mark.parametrize(
    ("offers", "agreed"),
    [(["h3"], None), (["h3-29", "h3"], None), (["h3", "http/1.1"], "http/1.1"), (["h3", "h2", "http/1.1"], "h2")],
)
def test_over_tcp_nobody_agrees_to_http3(
    offers: list[str],
    agreed: str | None,
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    certificate: Path,
) -> None:
    options = {**addon_options(collector), "http2": True}
    proxy = moesif_proxy(upstream.url, options, "--tls-cert", str(certificate))
    with Client(proxy.port, tls=trusting(*offers)) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.selected_alpn_protocol() == agreed
        if agreed != "h2":
            assert client.exchange("GET", "/") is not None
    assert proxy.stop() == 0
    assert "Traceback" not in proxy.output


def test_tls_is_not_spoken_without_a_certificate(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served_certificate(proxy.port)
    assert not list(proxy.folder.glob("mitmproxy-*"))
    answer = exchange(proxy.port)
    assert answer is not None
    assert answer.status == 200


# --- end ---------------------------------------------------------------------------------------------------------


class Slow:
    """An upstream's handler that answers when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, _request: RawRequest, connection: Connection) -> None:
        connection.wait(self.go)
        connection.send(wire.response(200, [], b"late", reason="OK"))


def wait_until_refused(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, "it still accepts connections"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_exchanges_end_and_closes_idle_connections(
    workers: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    slow = Slow()
    upstream.answer("/slow", slow)
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--drain-timeout", "15", workers=workers)
    with Client(proxy.port) as busy, Client(proxy.port) as idle, Client(proxy.port) as silent:
        idle.exchange("GET", "/idle")
        busy.send(encode_request("GET", "/slow"))
        upstream.wait_for(2)
        proxy.send_signal(signal.SIGTERM)
        wait_until_refused(proxy.port)
        assert idle.sock.recv(1) == silent.sock.recv(1) == b""
        slow.go.set()
        answer = busy.read_response()
        assert answer is not None
        assert (answer.status, answer.body, answer.get("connection")) == (200, b"late", "close")
        assert busy.sock.recv(1) == b""
    assert proxy.wait_exit() == 0
    assert exit_counts(proxy.output)["delivered"] == 2
    assert {event["response"]["status"] for event in collector.events()} == {200}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_it_at_once(
    workers: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", Slow())
    options = addon_options(collector, shutdown_timeout=60_000)
    proxy = moesif_proxy(upstream.url, options, "--drain-timeout", "60", workers=workers)
    collector.refuse()
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.send_signal(signal.SIGINT)
        wait_until_refused(proxy.port)
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait_exit() == 0
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["waiting"]) == (1, 1)


def test_exchanges_that_do_not_end_are_not_waited_for_for_ever(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", Slow())
    proxy = moesif_proxy(upstream.url, addon_options(collector, shutdown_timeout=2000), "--drain-timeout", "0.2")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        assert proxy.stop() == 0
    assert only_event(collector)["metadata"]["error"] == "unfinished"


# --- on another mitmproxy ----------------------------------------------------------------------------------------

PRETENDING = textwrap.dedent("""
    import sys
    from mitmproxy import version
    version.VERSION = "99.0.0"
    from mitmproxy_moesif.workers.main import main
    sys.exit(main(sys.argv[1:]))
""")


def test_an_untested_mitmproxy_runs_its_own_master_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    start = tmp_path / "start.py"
    start.write_text(PRETENDING)
    monkeypatch.setattr("tests.support.moesif_proxy.PROGRAM", (sys.executable, str(start)))
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    exchange(proxy.port, "POST", "/old", body=BODY)
    (request,) = upstream.requests()
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert only_event(collector)["request"]["body"] == {"n": 1}
    assert proxy.stop() == 0
    assert "not tested with mitmproxy 99.0.0" in proxy.output
    assert exit_counts(proxy.output)["delivered"] == 1

"""Calls that end at their deadline."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest
import requests

from mitmproxy_moesif.web.session import DeadlineSession, network_reason
from tests.support import wire
from tests.support.collector import Answer, ScriptedCollector
from tests.support.h2 import H2Upstream
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

ELSEWHERE = "http://api.moesif.example"


@pytest.mark.parametrize(
    "answer",
    [Answer(how="hang"), Answer(drip=0.05), Answer(body=b"x" * 5000, drip=0.05)],
    ids=["no answer", "a slow head", "a slow body"],
)
def test_a_call_ends_at_its_deadline_and_the_session_can_be_used_again(answer: Answer) -> None:
    with ScriptedCollector() as collector, DeadlineSession() as session:
        collector.enqueue(answer)
        began = time.monotonic()
        with pytest.raises((requests.RequestException, OSError)), session.deadline(0.3):
            session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
        assert 0.25 < time.monotonic() - began < 10
        with session.deadline(30):
            assert session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30).status_code == 401


def test_a_head_that_is_broken_leaves_no_traceback_in_the_log(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nbroken\r\nContent-Length: 0\r\n\r\n")
        connection.close()

    upstream.handler = answer
    with DeadlineSession() as session, session.deadline(30), suppress(requests.RequestException):
        session.get(upstream.url)
    assert upstream.requests()
    assert caplog.messages == []


def test_a_deadline_does_not_outlive_its_call() -> None:
    with ScriptedCollector() as collector, DeadlineSession() as session:
        with session.deadline(0.2):
            session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
        collector.enqueue(Answer(201, delay=0.5))
        assert session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30).status_code == 201


LARGE = b"x" * 20_000_000
"""More than the buffers of a connection hold."""


def reads_late(_request: RawRequest, connection: Connection) -> bool:
    connection.pause(0.4)
    return False


def never_reads(_request: RawRequest, connection: Connection) -> bool:
    connection.pause(60)
    return False


@pytest.mark.parametrize("kept", [False, True], ids=["a new connection", "a kept connection"])
def test_sending_has_a_timeout_of_its_own(kept: bool, upstream: ScriptedUpstream) -> None:
    """Not that of connecting, within which a large batch does not pass a slow line."""
    for sending in (30, None):
        with DeadlineSession(sending) as session, session.deadline(30):
            if kept:
                session.get(upstream.url, timeout=30)
            upstream.on_head = reads_late
            assert session.post(upstream.url, LARGE, timeout=(0.1, 30)).status_code == 200


def test_sending_that_takes_too_long_ends(upstream: ScriptedUpstream) -> None:
    upstream.on_head, began = never_reads, time.monotonic()
    with DeadlineSession(0.2) as session, session.deadline(30), pytest.raises(requests.RequestException) as failed:
        session.post(upstream.url, LARGE, timeout=20)
    assert time.monotonic() - began < 10
    assert network_reason(failed.value, upstream.url) == f"no answer from 127.0.0.1:{upstream.port} in time"


def watching() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "moesif-watch"}


def test_a_closed_session_leaves_no_thread() -> None:
    others = watching()
    with ScriptedCollector() as collector, DeadlineSession() as session:
        for _ in range(2):  # it may be used again
            with session.deadline(30):
                session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
            (thread,) = watching() - others
            session.close()
            thread.join(10)
            assert not thread.is_alive()


def reason_of(url: str, timeout: float = 5) -> str:
    with DeadlineSession() as session, pytest.raises(requests.RequestException) as failed:
        session.get(url, timeout=timeout)
    return network_reason(failed.value, url)


@pytest.mark.parametrize("proxy", ["http://[::1", "http://a:b:c", "http://\udcff:80", "foo://x"])
def test_a_proxy_that_is_none_is_told_in_words(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert reason_of(ELSEWHERE) == (
        "api.moesif.example, or the proxy toward it (HTTP_PROXY, HTTPS_PROXY), cannot be used: "
        "moesif-proxy doctor says why"
    )


def test_what_went_wrong_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedUpstream(refusing=True) as upstream:
        host = upstream.url.removeprefix("http://")
        assert reason_of(upstream.url) == f"{host} refuses connections: nothing listens there"
    with ScriptedUpstream() as upstream:
        host = upstream.url.removeprefix("http://")
        upstream.handler = lambda _request, connection: connection.hang()
        assert reason_of(upstream.url, 0.2) == f"no answer from {host} in time"
        upstream.handler = lambda _request, connection: connection.reset()
        assert reason_of(upstream.url) == f"the connection to {host} broke"

    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert reason_of("http://ada:s3cret@nowhere.example") == "the name nowhere.example is not known to DNS"


def test_authorities_of_the_environment_are_trusted(h2_upstream: H2Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert reason_of(h2_upstream.url).endswith("is not trusted (SSL_CERT_FILE names an authority of your own)")
    monkeypatch.setenv("SSL_CERT_FILE", str(h2_upstream.ca_path))
    assert "not trusted" not in reason_of(h2_upstream.url), "it speaks HTTP/2 alone, so that nothing comes back"


def test_a_proxy_of_the_environment_is_used_and_the_deadline_holds_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedUpstream() as proxy, DeadlineSession() as session:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        proxy.answer(f"{ELSEWHERE}/v1", wire.response(201))
        assert session.get(f"{ELSEWHERE}/v1").status_code == 201
        proxy.handler = lambda _request, connection: connection.hang()
        began = time.monotonic()
        with pytest.raises((requests.RequestException, OSError)), session.deadline(0.3):
            session.get(f"{ELSEWHERE}/slow", timeout=30)
        assert time.monotonic() - began < 10
        assert proxy.requests()[0].target == f"{ELSEWHERE}/v1"


def test_neither_this_machine_nor_what_no_proxy_names_is_sought_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedCollector() as collector, ScriptedUpstream() as proxy, DeadlineSession() as session:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "moesif.example")
        assert session.post(f"{collector.url}/v1/events/batch", b"[]").status_code == 401
        assert session.merge_environment_settings(f"{ELSEWHERE}/v1", {}, None, None, None)["proxies"] == {}
        assert proxy.requests() == []

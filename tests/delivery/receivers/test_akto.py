"""Calls to Akto's ingest service: what they send, and what each way to fail is called."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery.receivers.akto import AktoReceiver
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict
from tests.support.akto import ScriptedAkto

SECRET = "k3y-of-akto"
RECORDS = [b'{"path":"/a"}', b'{"path":"/b"}']
HALF_A_SECOND = 500


def send(url: str, records: list[bytes] = RECORDS, **parameters: Any) -> Outcome:
    target = AktoTarget.of(parse_settings({"akto_service_url": url, **parameters}))
    assert target is not None
    with closing(AktoReceiver(target)) as receiver:
        return receiver.send(records)


def test_records_go_as_one_batch_with_the_key() -> None:
    with ScriptedAkto() as akto:
        assert send(f"{akto.url}/", akto_api_key=SECRET).verdict is Verdict.ACCEPTED
    assert akto.calls == [[{"path": "/a"}, {"path": "/b"}]]
    (headers,) = akto.headers
    assert (headers["x-api-key"], headers["authorization"]) == (SECRET, SECRET)
    assert headers["content-type"] == "application/json"


def test_without_a_key_there_is_no_such_header() -> None:
    with ScriptedAkto() as akto:
        send(akto.url)
    assert not {"x-api-key", "authorization"} & set(akto.headers[0])


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (201, Verdict.UNAVAILABLE),
        (401, Verdict.UNAUTHORIZED),
        (422, Verdict.REFUSED),
        (500, Verdict.UNAVAILABLE),
        (503, Verdict.UNAVAILABLE),
    ],
)
def test_only_200_is_success(status: int, verdict: Verdict) -> None:
    with ScriptedAkto() as akto:
        akto.status = status
        outcome = send(akto.url, akto_api_key=SECRET)
    assert outcome.verdict is verdict
    assert outcome.reason.startswith(f"ingest failed (status {status})")
    assert SECRET not in outcome.reason


@contextmanager
def full_backlog() -> Iterator[str]:
    """Connections are neither accepted nor refused."""
    with ExitStack() as open_sockets:
        listening = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filling = open_sockets.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def never_reads() -> Iterator[str]:
    """What is sent stays where it is once the buffers are full."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_connecting_that_takes_too_long_ends() -> None:
    with full_backlog() as url:
        outcome = send(url, akto_timeout=HALF_A_SECOND)
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason.startswith("connect failed (Akto unreachable): connecting to 127.0.0.1")


def test_sending_that_takes_too_long_ends() -> None:
    record = json.dumps({"path": "x" * 8_000_000}).encode()
    with never_reads() as url:
        outcome = send(url, [record], akto_timeout=HALF_A_SECOND)
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason.startswith("ingest failed: ")


def test_an_answer_that_takes_too_long_is_not_waited_for() -> None:
    with ScriptedAkto(held=True) as akto:
        outcome = send(akto.url, akto_timeout=HALF_A_SECOND)
    assert outcome == Outcome(Verdict.UNAVAILABLE, f"ingest failed: no answer from 127.0.0.1:{akto.port} in time")


def test_each_part_of_a_call_is_capped_whatever_is_set() -> None:
    target = AktoTarget.of(parse_settings({"akto_service_url": "http://h", "akto_timeout": 30_000}))
    assert target is not None
    with closing(AktoReceiver(target)) as receiver:
        assert receiver.caps == (3.0, 5.0, 3.0, 11.0)


def test_nobody_listens() -> None:
    with ScriptedAkto(refusing=True) as akto:
        outcome = send(akto.url)
    expected = f"connect failed (Akto unreachable): 127.0.0.1:{akto.port} refuses connections: nothing listens there"
    assert outcome == Outcome(Verdict.UNAVAILABLE, expected)


def test_a_name_that_dns_does_not_know() -> None:
    outcome = send("http://akto.invalid")
    expected = "connect failed (Akto unreachable): the name akto.invalid is not known to DNS"
    assert outcome == Outcome(Verdict.UNAVAILABLE, expected)

"""Upstreams that fail: what of, and lines in the log without a flood."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flow as mitm_flow
from mitmproxy.test import tflow

from mitmproxy_moesif.capture.traffic import TROUBLES
from mitmproxy_moesif.capture.upstreams import AGAIN, MOST, Upstreams, trouble_of
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_is_told_when_it_begins_each_minute_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    upstreams = Upstreams(clock)
    for _ in range(100):
        upstreams.failed("orders:80", "refused")
        clock.now += 1
    upstreams.failed("other:80", "dns")
    upstreams.answered("orders:80")
    upstreams.answered("orders:80")
    assert caplog.messages == [
        "moesif: the upstream orders:80 fails: the connection is refused",
        "moesif: the upstream orders:80 fails: the connection is refused; 61 requests failed in 60 s",
        "moesif: the upstream other:80 fails: its name is not found",
        "moesif: the upstream orders:80 answers again; 100 requests failed in 100 s",
    ]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=200))
def test_one_that_fails_now_and_then_is_told_no_more_than_twice_a_minute(steps: list[tuple[bool, float]]) -> None:
    clock = Clock()
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[assignment, method-assign]
    logging.getLogger("moesif").addHandler(handler)
    try:
        upstreams = Upstreams(clock)
        for fails, seconds in steps:
            clock.now += seconds
            if fails:
                upstreams.failed("u:80", "closed")
            else:
                upstreams.answered("u:80")
    finally:
        logging.getLogger("moesif").removeHandler(handler)
    assert len(said) <= 2 * ((clock.now - 1000) // AGAIN + 1)


def test_many_upstreams_take_no_memory() -> None:
    upstreams = Upstreams()
    for number in range(3 * MOST):
        upstreams.failed(f"{number}:80", "dns")
    assert len(upstreams.failing) <= MOST


@pytest.mark.parametrize(
    ("message", "trouble"),
    [
        ("[Errno 111] Connect call failed ('127.0.0.1', 1)", "refused"),
        ("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect", "refused"),
        ("[Errno -2] Name or service not known", "dns"),
        ("[Errno -3] Temporary failure in name resolution", "dns"),
        ("[Errno 110] Connect call failed ('10.0.0.1', 1)", "timed_out"),
        ("[Errno 113] Connect call failed ('10.0.0.1', 1)", "unreachable"),
        ("Certificate verify failed: self-signed certificate", "tls"),
        ("The remote server does not speak TLS.", "tls"),
        ("server closed connection", "closed"),
        ("unexpected server response: b'[Errno 111] timed out'", "protocol"),
        ("HTTP/1 protocol error: peer closed connection", "protocol"),
        ("who knows", "other"),
    ],
)
def test_what_it_failed_of(message: str, trouble: str) -> None:
    flow = tflow.tflow()
    flow.error = mitm_flow.Error(message)
    assert trouble_of(flow) == trouble


def test_an_answer_that_broke_off_and_one_that_was_refused() -> None:
    flow = tflow.tflow(resp=True)
    assert trouble_of(flow) == "protocol"
    flow.error = mitm_flow.Error("peer closed connection")
    assert trouble_of(flow) == "cut"
    assert {"protocol", "cut"} < TROUBLES.keys()


def closes(_request: RawRequest, connection: Connection) -> None:
    connection.close()


def breaks_off(_request: RawRequest, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
    connection.close()


def talks(_request: RawRequest, connection: Connection) -> None:
    connection.send(b"SECRET\r\n\r\n")
    connection.close()


@contextmanager
def nowhere() -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def test_a_refusing_upstream_is_one_line(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector
) -> None:
    with nowhere() as address:
        proxy = moesif_proxy(f"http://{address}", addon_options(collector))
        for _ in range(5):
            exchange(proxy.port, "GET", "/x?SECRET")
        assert proxy.stop() == 0
    fails = [line for line in proxy.output.splitlines() if " fails: " in line]
    assert len(fails) == 1
    assert fails[0].endswith(f"the upstream {address} fails: the connection is refused")
    assert "SECRET" not in proxy.output


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (closes, "it closes the connection before it answers"),
        (breaks_off, "its answer breaks off"),
        (talks, "its answer cannot be passed on"),
    ],
)
def test_one_that_answers_badly_is_told_and_so_is_that_it_answers_again(
    how: Callable[[RawRequest, Connection], None],
    said: str,
    moesif_proxy: Callable[..., MoesifProxy],
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    upstream.answer("/bad", how)
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    for path in ("/bad", "/bad", "/good", "/good"):
        exchange(proxy.port, "GET", path)
    assert proxy.stop() == 0
    told = re.findall(r"moesif: the upstream \S+ (.*)", proxy.output)
    assert told[0] == f"fails: {said}"
    assert len(told) == 2
    assert re.fullmatch(r"answers again; 2 requests failed in \d+ s", told[1])
    assert "SECRET" not in proxy.output

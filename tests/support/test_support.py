"""The harness does what the tests trust it to do, with sockets alone and with a mitmdump that loads nothing."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import wire
from tests.support.client import Client, exchange
from tests.support.collector import (
    LOST_AFTER_ACCEPT,
    NEVER,
    Answer,
    ScriptedCollector,
    first_of,
    refuse_events,
    refuse_larger,
)
from tests.support.h2 import H2Client, H2Message, H2Upstream
from tests.support.proxy import Mitmdump, StartError, failed_start
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, echo, until_close

APPLICATION = {"X-Moesif-Application-Id": "any"}


def event(number: int, **more: Any) -> dict[str, Any]:
    request = {"time": "2026-11-22T09:05:07.042", "uri": "http://a.example/", "verb": "GET"}
    return {"request": request, "transaction_id": f"id-{number}", **more}


def post(collector: ScriptedCollector, *events: dict[str, Any], timeout: float = 10) -> requests.Response:
    url = f"{collector.url}/v1/events/batch"
    return requests.post(url, json=events, headers=APPLICATION, timeout=timeout)


class TestCollector:
    def test_keeps_one_event_of_each_id(self, collector: ScriptedCollector) -> None:
        assert post(collector, event(1), event(2)).status_code == 201
        assert post(collector, event(2), event(3)).status_code == 201

        assert [each["transaction_id"] for each in collector.wait_for(3)] == ["id-1", "id-2", "id-3"]
        assert collector.ids() == ["id-1", "id-2", "id-2", "id-3"]
        assert collector.unique_ids() == {"id-1", "id-2", "id-3"}

    @pytest.mark.parametrize(("name", "encode"), [("deflate", zlib.compress), ("gzip", gzip.compress)])
    def test_reads_compressed_batches(
        self, collector: ScriptedCollector, name: str, encode: Callable[[bytes], bytes]
    ) -> None:
        body = encode(json.dumps([event(1)]).encode())

        requests.post(
            f"{collector.url}/v1/events/batch", body, headers={**APPLICATION, "Content-Encoding": name}, timeout=10
        )

        (received,) = collector.posts()
        assert (received.body, received.ids, received.headers["content-encoding"]) == (body, ["id-1"], name)

    def test_answers_from_the_queue_then_the_script_then_plainly(self, collector: ScriptedCollector) -> None:
        collector.enqueue(Answer(503), Answer(429, {"Retry-After": "7"}))
        collector.script = refuse_events(lambda each: each["transaction_id"] == "id-13", 422)

        assert post(collector, event(1)).status_code == 503
        assert post(collector, event(1)).headers["Retry-After"] == "7"
        assert post(collector, event(13)).status_code == 422
        assert post(collector, event(2)).status_code == 201
        assert collector.unique_ids() == {"id-2"}
        assert [received.ids for received in collector.posts()] == [["id-1"], ["id-1"], ["id-13"], ["id-2"]]

    def test_refuses_by_size_and_by_whichever_script_has_an_answer(self, collector: ScriptedCollector) -> None:
        collector.script = first_of(refuse_larger(500), refuse_events(lambda each: "bad" in each))

        assert post(collector, event(1, note="x" * 500)).status_code == 413
        assert post(collector, event(2, bad=1)).status_code == 400
        assert post(collector, event(3)).status_code == 201

    def test_refuses_what_is_no_event_and_who_names_no_application(self, collector: ScriptedCollector) -> None:
        url = f"{collector.url}/v1/events/batch"

        assert requests.post(url, json=[event(1)], timeout=10).status_code == 401
        for content in (b"nonsense", b"[{}]", b"[[]]", b'[{"transaction_id": 1}]'):
            assert requests.post(url, content, headers=APPLICATION, timeout=10).status_code == 400
        assert collector.unique_ids() == set()

    def test_can_lose_an_answer_after_it_took_the_events(self, collector: ScriptedCollector) -> None:
        collector.enqueue(LOST_AFTER_ACCEPT, Answer(how="reset"))

        with pytest.raises(requests.ConnectionError):
            post(collector, event(1))
        with pytest.raises(requests.ConnectionError):
            post(collector, event(2))

        assert collector.unique_ids() == {"id-1"}

    def test_can_stay_silent(self, collector: ScriptedCollector) -> None:
        collector.enqueue(NEVER)
        with pytest.raises(requests.Timeout):
            post(collector, event(1), timeout=0.1)

        collector.black_hole = True
        with pytest.raises(requests.Timeout):
            post(collector, event(2), timeout=0.1)
        assert [received.ids for received in collector.posts()] == [["id-1"]]

    def test_can_drip_its_answer(self, collector: ScriptedCollector) -> None:
        collector.enqueue(Answer(201, drip=5))

        with Client(collector.port) as client:
            client.send(b"POST /v1/events/batch HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]")
            assert client.sock.recv(1000) == b"H"

    def test_refuses_connections_and_comes_back_on_the_same_port(self, collector: ScriptedCollector) -> None:
        with Client(collector.port) as before:
            collector.refuse()
            assert before.read_head() is None
        with pytest.raises(ConnectionRefusedError):
            Client(collector.port)

        collector.listen()

        assert post(collector, event(1)).status_code == 201

    def test_may_start_refusing(self) -> None:
        with ScriptedCollector(refusing=True) as collector:
            with pytest.raises(ConnectionRefusedError):
                Client(collector.port)
            collector.listen()
            assert post(collector, event(1)).status_code == 201

    def test_waits_for_events_of_another_thread_and_says_what_is_missing(self, collector: ScriptedCollector) -> None:
        sender = threading.Thread(target=lambda: [post(collector, event(number)) for number in range(20)])
        sender.start()
        assert len(collector.wait_for(20)) == 20
        collector.wait_for(lambda them: len(them.posts()) == 20)
        sender.join()

        with pytest.raises(AssertionError, match="21"):
            collector.wait_for(21, timeout=0.01)

    def test_tags_its_documents(self, collector: ScriptedCollector) -> None:
        collector.rules = [{"_id": "one"}]
        tag = post(collector, event(1)).headers["X-Moesif-Rules-Tag"]
        rules = requests.get(f"{collector.url}/v1/rules", headers=APPLICATION, timeout=10)
        assert (rules.json(), rules.headers["ETag"]) == ([{"_id": "one"}], tag)

        collector.rules = []
        assert post(collector, event(2)).headers["X-Moesif-Rules-Tag"] != tag

    def test_keeps_up_with_many_events_from_several_senders(self, collector: ScriptedCollector) -> None:
        def send(sender: int) -> None:
            with requests.Session() as session:
                for batch in range(20):
                    events = [event(sender * 10_000 + batch * 50 + number, note="x" * 1000) for number in range(50)]
                    url = f"{collector.url}/v1/events/batch"
                    assert session.post(url, json=events, headers=APPLICATION, timeout=10).status_code == 201

        senders = [threading.Thread(target=send, args=[number]) for number in range(3)]
        for sender in senders:
            sender.start()
        assert len(collector.wait_for(3000)) == 3000
        for sender in senders:
            sender.join()


class TestUpstreamAndClient:
    def test_every_byte_of_a_request_is_kept(self, upstream: ScriptedUpstream) -> None:
        sent = b"pOsT /a%2f?q=1 HTTP/1.1\r\nhOst: x\r\nX-A: 1\r\nx-a:  2\r\nContent-Length: 3\r\n\r\nabc"
        with Client(upstream.port) as client:
            client.send(sent)
            answer = client.read_response()

        assert answer is not None
        assert (answer.status, json.loads(answer.body)) == (200, {"ok": True})
        (request,) = upstream.wait_for(1)
        assert request.raw == sent
        assert (request.method, request.path, request.get_all("X-A"), request.body) == (
            "pOsT",
            "/a%2f",
            ["1", "2"],
            b"abc",
        )

    def test_chunks_and_trailers_go_both_ways(self, upstream: ScriptedUpstream) -> None:
        framed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + wire.encode_chunks(
            b"one", b"two", trailers=[("X-End", "yes")]
        )
        upstream.answer("/c", framed)

        answer = exchange(upstream.port, "POST", "/c?x", [("Host", "h")], b"some text", chunked=True)

        assert answer is not None
        assert (answer.body, answer.trailers, answer.cut) == (b"onetwo", [(b"X-End", b"yes")], False)
        (request,) = upstream.requests()
        assert (request.body, request.get("transfer-encoding")) == (b"some text", "chunked")

    def test_informational_responses_are_passed_over(self, upstream: ScriptedUpstream) -> None:
        upstream.answer("/", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + wire.response(200, body="done"))
        answer = exchange(upstream.port)
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"done")

    def test_a_body_may_end_with_the_connection(self, upstream: ScriptedUpstream) -> None:
        upstream.answer("/", until_close(b"one", b"two"))
        answer = exchange(upstream.port)
        assert answer is not None
        assert (answer.body, answer.cut) == (b"onetwo", False)

    @pytest.mark.parametrize("chunked", [True, False])
    def test_a_reset_in_mid_body_is_seen_as_a_cut(self, upstream: ScriptedUpstream, chunked: bool) -> None:
        framing = b"Transfer-Encoding: chunked\r\n\r\n9\r\nab" if chunked else b"Content-Length: 9\r\n\r\nab"
        read = threading.Event()

        def handle(request: RawRequest, connection: Connection) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\n" + framing)
            connection.wait(read)
            connection.reset()

        upstream.handler = handle
        with Client(upstream.port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            client.stream.peek()
            read.set()
            answer = client.read_response()
        assert answer is not None
        assert (answer.status, answer.body, answer.cut) == (200, b"ab", True)

    def test_no_answer_at_all(self, upstream: ScriptedUpstream) -> None:
        upstream.handler = lambda request, connection: connection.reset()
        assert exchange(upstream.port) is None
        upstream.handler = lambda request, connection: connection.hang()
        with pytest.raises(TimeoutError):
            exchange(upstream.port, timeout=0.1)

    def test_head_and_204_have_no_body_and_connections_are_kept(self, upstream: ScriptedUpstream) -> None:
        upstream.answer("/none", wire.response(204))
        with Client(upstream.port) as client:
            head = client.exchange("HEAD", "/")
            none = client.exchange("GET", "/none")
            last = client.exchange("GET", "/")
        assert head is not None
        assert none is not None
        assert last is not None
        assert (head.body, head.get("content-length")) == (b"", str(len(last.body)))
        assert (none.status, none.body) == (204, b"")

    def test_an_early_answer_needs_no_body(self, upstream: ScriptedUpstream) -> None:
        def refuse(request: RawRequest, connection: Connection) -> bool:
            connection.send(wire.response(413, body="too much"))
            return True

        upstream.on_head = refuse
        with Client(upstream.port) as client:
            client.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
            answer = client.read_response("POST")
        assert answer is not None
        assert (answer.status, answer.body) == (413, b"too much")

    def test_expect_100_continue_is_answered(self, upstream: ScriptedUpstream) -> None:
        upstream.handler = echo
        with Client(upstream.port) as client:
            client.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            interim = client.read_head()
            client.send(b"hi")
            answer = client.read_response("POST")
        assert interim is not None
        assert answer is not None
        assert (interim.status, answer.body) == (100, b"hi")

    def test_refuses_connections(self) -> None:
        with ScriptedUpstream(refusing=True) as upstream, pytest.raises(ConnectionRefusedError):
            exchange(upstream.port)


class TestH2:
    def test_bodies_larger_than_the_window_and_trailers(self, h2_upstream: H2Upstream) -> None:
        h2_upstream.handler = lambda request: H2Message([(":status", "200")], request.body * 2, [("x-end", "yes")])
        body = bytes(range(256)) * 1000

        with H2Client(h2_upstream.port) as client:
            answer = client.exchange("POST", "/p", [("x-a", "1")], body, [("x-sum", "2")])

        assert (answer.status, answer.body, answer.trailers) == (200, body * 2, [("x-end", "yes")])
        (request,) = h2_upstream.wait_for(1)
        assert (request.get(":path"), request.get("x-a"), request.trailers) == ("/p", "1", [("x-sum", "2")])

    def test_many_streams_on_one_connection_and_a_reset_one(self, h2_upstream: H2Upstream) -> None:
        def handle(request: H2Message) -> H2Message:
            path = request.get(":path") or ""
            return H2Message([(":status", "200")], path.encode(), reset=2 if path == "/3" else None)

        h2_upstream.handler = handle
        asked = [
            H2Message([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", f"/{number}")])
            for number in range(8)
        ]
        with H2Client(h2_upstream.port) as client:
            answers = client.exchange_all(asked)

        assert [answer.reset for answer in answers] == [None, None, None, 2, None, None, None, None]
        assert [answer.body for answer in answers if answer.reset is None] == [
            b"/0",
            b"/1",
            b"/2",
            b"/4",
            b"/5",
            b"/6",
            b"/7",
        ]


class TestMitmdump:
    def test_fronts_an_upstream_and_ends_when_told(
        self, mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream
    ) -> None:
        proxy = mitmdump(upstream.url, {"keep_host_header": True}, scripts=[])

        answer = exchange(proxy.port, "GET", "/there?x=1")

        assert answer is not None
        assert answer.status == 200
        assert upstream.requests()[0].get("host") == "api.example.com"
        assert "GET http" in proxy.wait_for_output("/there?x=1")
        now = proxy.memory()  # first: it may still grow
        assert proxy.peak_memory() >= now > 10_000_000
        assert proxy.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 1)

    def test_speaks_http2_on_both_sides(self, mitmdump: Callable[..., Mitmdump], h2_upstream: H2Upstream) -> None:
        proxy = mitmdump(h2_upstream.url, {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path)}, scripts=[])
        with H2Client(proxy.port) as client:
            answer = client.exchange("POST", "/h2", body=b"x" * 100_000)
        assert (answer.status, len(h2_upstream.requests()[0].body)) == (200, 100_000)

    def test_starts_again_on_the_same_port_after_a_kill(
        self, mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, tmp_path: Path
    ) -> None:
        first = mitmdump(upstream.url, scripts=[], folder=tmp_path)
        first.kill()
        assert first.wait_exit() == -signal.SIGKILL

        second = mitmdump(upstream.url, scripts=[], folder=tmp_path, port=first.port)

        assert second.port == first.port
        assert exchange(second.port) is not None

    def test_a_port_that_is_taken_is_no_start(
        self, mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream
    ) -> None:
        with pytest.raises(StartError, match="address already in use") as raised:
            mitmdump(scripts=[], port=upstream.port)
        assert raised.value.code == 1

    def test_a_start_that_an_addon_ends_says_why(self, tmp_path: Path) -> None:
        script = tmp_path / "fails.py"
        script.write_text("import logging\ndef load(loader): logging.error('told why')\n")
        failure = failed_start("http://127.0.0.1:9", scripts=[script])
        assert failure.code == 1
        assert "told why" in failure.output

    def test_options_and_environment_arrive(
        self, mitmdump: Callable[..., Mitmdump], monkeypatch: Any, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MOESIF_TIMEOUT", "1")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        script = tmp_path / "tells.py"
        script.write_text(
            "import logging, os\nfrom mitmproxy import ctx\n"
            "def running():\n"
            "    names = [n for n in os.environ if n.startswith(('MOESIF_', 'HTTPS_PROXY'))]\n"
            "    logging.warning(f'{ctx.options.ignore_hosts} {ctx.options.rawtcp} {names} end')\n"
        )
        proxy = mitmdump(
            options={"ignore_hosts": ["a", "b"], "rawtcp": False},
            scripts=[script],
            environment={"MOESIF_DEBUG": "true"},
        )
        assert "['a', 'b'] False ['MOESIF_DEBUG'] end" in proxy.wait_for_output(" end")

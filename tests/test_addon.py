"""The addon in the real mitmdump: ids on both sides, streams, HTTP/2, secrets, scripts reloaded, files."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import stat
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from mitmproxy_moesif import __version__
from tests.support import ADDON_SCRIPT, APPLICATION_ID, wire
from tests.support.addon import addon_options, exit_counts, only_event
from tests.support.client import Client, encode_request, exchange
from tests.support.collector import Answer, ScriptedCollector
from tests.support.h2 import H2Client, H2Upstream
from tests.support.proxy import BIN, Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., Mitmdump]
HEADER = "X-Moesif-Transaction-Id"


SENT_IDS: dict[str | None, bool] = {
    None: False,
    "": False,
    "   ": False,
    "x" * 129: False,
    "id-\u00e9": False,
    "x" * 128: True,
    "not a uuid": True,
    "7D3B6E0A-4C1F-4A7E-9F59-0123456789AB": True,
}


def test_one_transaction_id_toward_both_sides(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/x", wire.response(200, [(HEADER, "the upstream's own")], b"ok"))
    proxy = mitmdump(upstream.url, addon_options(collector))
    for number, (sent, kept) in enumerate(SENT_IDS.items(), start=1):
        answer = exchange(proxy.port, target="/x", headers=[] if sent is None else [(HEADER, sent)])
        assert answer is not None
        (to_upstream,) = upstream.requests()[-1].get_all(HEADER)
        assert answer.get_all(HEADER) == [to_upstream]
        assert (to_upstream == (sent or "").strip()) is kept, sent
        events = collector.wait_for(number)
        assert len(events) == number
        assert uuid.UUID(events[-1]["transaction_id"])
        assert (events[-1]["transaction_id"] == to_upstream) is not kept, sent
        assert events[-1].get("metadata", {}).get("client_transaction_id") == (sent if kept else None)


def test_an_id_that_a_client_sends_again_and_again_hides_no_call(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector))
    sent = [("Before", "1"), (HEADER.swapcase(), str(uuid.UUID(int=7))), ("After", "2")]
    for _ in range(5):
        assert exchange(proxy.port, headers=sent) is not None
    assert len(collector.wait_for(5)) == len(collector.unique_ids()) == 5
    assert [request.headers[1:] for request in upstream.requests()] == [sent] * 5


def test_of_two_ids_none_is_taken(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector))
    exchange(proxy.port, headers=[(HEADER, "a"), (HEADER.lower(), "b")])
    assert upstream.requests()[0].get_all(HEADER) == [only_event(collector)["transaction_id"]]


def test_an_id_whose_header_is_masked_is_nowhere_in_the_event(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, request_header_masks=[HEADER]))
    exchange(proxy.port, headers=[(HEADER, "s3cret")])
    event = only_event(collector)
    assert "s3cret" not in json.dumps([event["request"], event.get("metadata")])


def test_without_the_header_events_still_have_ids(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, disable_transaction_id=True))
    answer = exchange(proxy.port, headers=[(HEADER, "mine")])
    assert answer is not None
    assert answer.get(HEADER) is None
    assert upstream.requests()[0].get(HEADER) == "mine"
    assert uuid.UUID(only_event(collector)["transaction_id"])


def test_what_is_masked_or_rewritten_in_the_event_travels_unchanged(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    body = b'{"password": "s3cret", "keep": 1}'
    proxy = mitmdump(
        upstream.url,
        addon_options(
            collector,
            request_body_masks=["password"],
            request_header_masks=["x-secret"],
            request_query_masks=["token"],
            disable_transaction_id=True,
        ),
    )
    headers = [("X-SecreT", "s3cret"), ("host", "Api.Example:8080")]
    raw = encode_request("POST", "/a//b?token=s3cret&x=%C3%A9", headers, body)
    with Client(proxy.port) as client:
        client.send(raw)
        client.read_response("POST")
    assert upstream.requests()[0].raw == raw
    assert "s3cret" not in json.dumps(only_event(collector))


def test_bodies_pass_chunk_by_chunk(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    """The client reads the first chunk while the upstream still waits to be told to go on, and the other way round."""

    def answer_in_steps(_request: RawRequest, connection: Connection) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"6\r\nfirst \r\n")
        assert connection.stream.readline() == b"GO\r\n"
        connection.send(b"6\r\nsecond\r\n0\r\n\r\n")
        return True

    upstream.on_head = answer_in_steps
    proxy = mitmdump(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.send(b"POST /steps HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n")
        head = client.read_head()
        assert head is not None
        assert head.status == 200
        assert client.stream.read(11) == b"6\r\nfirst \r\n"
        client.send(b"GO\r\n")
        assert client.stream.readline() == b"6\r\n"
    event = only_event(collector)
    assert event["request"]["uri"].endswith("/steps")


def test_a_body_over_the_limit_is_left_out_whole_and_passes_whole(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = lambda request, connection: connection.send(wire.response(200, [], b"y" * 3000))
    proxy = mitmdump(
        upstream.url, addon_options(collector, request_max_body_size_limit=2000, response_max_body_size_limit=2000)
    )
    answer = exchange(proxy.port, "POST", body=b"x" * 3000)
    assert answer is not None
    assert answer.body == b"y" * 3000
    assert upstream.requests()[0].body == b"x" * 3000
    assert only_event(collector)["metadata"]["body_omitted"] == {"request": "too_large", "response": "too_large"}


@pytest.mark.parametrize("stream", [True, False])
def test_streamed_and_buffered_bodies_give_the_same_event(
    stream: bool, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    content = gzip.compress(b'{"a": [1, {}]}')
    upstream.answer("/z", wire.response(200, [("Content-Encoding", "gzip")], content))
    proxy = mitmdump(upstream.url, addon_options(collector, stream=stream))
    answer = exchange(proxy.port, "POST", "/z", body=b"plain", chunked=True)
    assert answer is not None
    assert answer.body == content
    event = only_event(collector)
    assert event["response"]["body"] == {"a": [1, {}]}
    assert event["request"]["body"] == "cGxhaW4="
    assert event["request"]["transfer_encoding"] == "base64"


def test_http2_on_both_sides(mitmdump: Start, collector: ScriptedCollector, h2_upstream: H2Upstream) -> None:
    proxy = mitmdump(
        h2_upstream.url,
        {**addon_options(collector), "ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True},
    )
    with H2Client(proxy.port) as client:
        answer = client.exchange("POST", "/two?x=1", body=b'{"n": 2}')
    assert answer.status == 200
    (event,) = collector.wait_for(1)
    assert event["request"]["verb"] == "POST"
    assert event["request"]["uri"].startswith("https://")
    assert event["request"]["uri"].endswith("/two?x=1")
    assert event["request"]["body"] == {"n": 2}
    assert event["response"]["status"] == 200
    assert h2_upstream.requests()[0].get("x-moesif-transaction-id") == event["transaction_id"]
    assert event["request"]["headers"]["host"] == "api.example.com"
    assert h2_upstream.requests()[0].get("host") is None


def test_events_go_to_a_file_without_an_account(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    proxy = mitmdump(upstream.url, {"moesif_sink_file": str(path), "moesif_flush_interval": 20})
    for number in range(3):
        exchange(proxy.port, target=f"/{number}")
    assert proxy.stop() == 0
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["request"]["uri"][-2:] for event in events] == ["/0", "/1", "/2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert exit_counts(proxy.output)["delivered"] == 3


def test_a_file_beside_moesif_has_what_moesif_has(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "events.ndjson"
    proxy = mitmdump(upstream.url, addon_options(collector, sink_file=str(path)))
    exchange(proxy.port)
    (event,) = collector.wait_for(1)
    assert proxy.stop() == 0
    assert [json.loads(line) for line in path.read_text().splitlines()] == [event]


def test_the_batch_as_moesif_documents_it(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    unhurried = {"connect_timeout": 30_000, "send_timeout": 60_000, "flush_interval": 60_000}
    proxy = mitmdump(upstream.url, addon_options(collector, batch_size=3, enable_compression=True, **unhurried))
    for full in (3, 6):  # by itself, once there are as many as a batch has; more may go in a larger one
        for _ in range(3):
            exchange(proxy.port)
        collector.wait_for(full)
    exchange(proxy.port)
    assert proxy.stop() == 0  # and what is left at the end
    for post in collector.posts():
        assert post.path == "/v1/events/batch"
        assert post.headers["content-type"] == "application/json"
        assert post.headers["content-encoding"] == "deflate"
        assert post.headers["user-agent"] == f"mitmproxy-moesif/{__version__}"
        assert post.headers["x-moesif-application-id"] == APPLICATION_ID
    assert [len(post.events) for post in collector.posts()] == [3, 3, 1]


def test_a_reload_of_the_script_neither_loses_nor_doubles(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Reloaded with an exchange under way and events still waiting for their batch."""
    addon = tmp_path / "addon"
    shutil.copytree(ADDON_SCRIPT.parent, addon, ignore=shutil.ignore_patterns("__pycache__"))
    go_on = threading.Event()

    def wait_and_answer(_request: RawRequest, connection: Connection) -> None:
        connection.wait(go_on)
        connection.send(wire.response())

    upstream.answer("/under-way", wait_and_answer)
    proxy = mitmdump(
        upstream.url, addon_options(collector, flush_interval=3000), scripts=[addon / "moesif.py"], folder=tmp_path
    )
    exchange(proxy.port, target="/before")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/under-way"))
        upstream.wait_for(2)
        script = addon / "moesif.py"
        script.write_text(script.read_text() + "\n# changed\n")
        proxy.wait_for_output("Loading script", count=2)
        go_on.set()
        assert client.read_response("GET") is not None
    exchange(proxy.port, target="/after")
    assert proxy.stop() == 0
    paths = sorted(event["request"]["uri"].rpartition("/")[2] for event in collector.events())
    assert paths == ["after", "before", "under-way"]
    assert exit_counts(proxy.output)["delivered"] == 3
    assert "Traceback" not in proxy.output


def test_a_removed_script_delivers_what_it_had(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    addon = tmp_path / "addon"
    shutil.copytree(ADDON_SCRIPT.parent, addon, ignore=shutil.ignore_patterns("__pycache__"))
    proxy = mitmdump(
        upstream.url, addon_options(collector, flush_interval=60_000), scripts=[addon / "moesif.py"], folder=tmp_path
    )
    exchange(proxy.port, target="/before")
    (addon / "moesif.py").unlink()
    collector.wait_for(1)
    proxy.wait_for_output("moesif: captured 1, delivered 1")
    assert exchange(proxy.port, target="/after") is not None


def test_no_secret_is_written_anywhere(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """With all logging on and a collector in every kind of trouble, whatever the process wrote is searched."""
    collector.enqueue(*(Answer(status) for status in (500, 413, 201, 400, 401)))
    proxy = mitmdump(
        upstream.url,
        addon_options(
            collector,
            debug=True,
            request_body_masks=["password"],
            response_body_masks=["password"],
            request_header_masks=["x-secret"],
            request_query_masks=["token"],
            sink_file=str(tmp_path / "sink.ndjson"),
        )
        | {"termlog_verbosity": "debug"},
        folder=tmp_path / "confdir",
    )
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], {"password": "m4sked-answer"}))
    for body in (
        b'{"password": "m4sked-body"}',
        b'{"password": "m4sked-body"',
        b"password=m4sked-body",
        b"\xff m4sked-body",
    ):
        exchange(proxy.port, "POST", "/?token=m4sked-query", [("X-Secret", "m4sked-header")], body)
    assert proxy.stop() == 0
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 2
    for path, content in written.items():
        assert APPLICATION_ID.encode() not in content, path
        assert b"m4sked" not in content, path
    assert "are off (flow_detail=0)" in proxy.output
    assert re.search(r"moesif: queued event [0-9a-f-]{36}", proxy.output)


def test_flow_lines_that_were_asked_for_stay_with_a_warning(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, request_query_masks=["token"]) | {"flow_detail": 1})
    exchange(proxy.port, target="/?token=1")
    proxy.wait_for_output("/?token=1")
    assert "flow_detail is set above 0" in proxy.output


@pytest.mark.parametrize(
    "head", [b"GET /s?token=S3CR3T a b HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nAuthorization Bearer S3CR3T\r\n"]
)
def test_a_head_that_cannot_be_read_is_not_quoted_in_the_log(
    head: bytes, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.send(head + b"Host: x\r\n\r\n")
        proxy.wait_for_output("(not shown)")
    assert "S3CR3T" not in proxy.output


def test_the_extensions_of_a_websocket_are_not_quoted_in_the_log(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """The answer's header may be masked."""
    accept = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), accept, ("Sec-WebSocket-Extensions", "S3CR3T")]
    upstream.answer("/", b"HTTP/1.1 101 Switching Protocols\r\n" + wire.encode_headers(fields) + b"\r\n")
    proxy = mitmdump(upstream.url, addon_options(collector))
    asked = [
        ("Host", "h"),
        *fields[:2],
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    with Client(proxy.port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + wire.encode_headers(asked) + b"\r\n")
        proxy.wait_for_output("(not shown)")
    assert "S3CR3T" not in proxy.output


def test_a_spool_folder_that_others_may_enter_is_told(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    open_folder, private = tmp_path / "open", tmp_path / "private"
    for folder, mode in ((open_folder, 0o755), (private, 0o700)):
        folder.mkdir()
        folder.chmod(mode)
    told = "others can access the spool folder"
    mitmdump(upstream.url, addon_options(collector, spool_dir=str(open_folder))).wait_for_output(told)
    started = mitmdump(upstream.url, addon_options(collector, spool_dir=str(private))).wait_for_output("started")
    assert told not in started


@pytest.mark.parametrize("program", ["mitmweb"])
def test_under_the_interactive_tools_captured_bodies_are_shown(
    program: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    saved = tmp_path / "flows"
    proxy = mitmdump(
        upstream.url,
        {**addon_options(collector), "web_open_browser": False, "web_port": 0, "save_stream_file": str(saved)},
        program=[str(BIN / program)],
    )
    answer = exchange(proxy.port, "POST", body=b'{"shown": 1}')
    assert answer is not None
    only_event(collector)
    assert proxy.stop() == 0
    assert b'{"shown": 1}' in saved.read_bytes()
    assert answer.body in saved.read_bytes()

"""Hostile clients and upstreams, with the gate and blocking rules in force: what comes of it is as with mitmproxy.

Nothing behind a request that can be read in two ways is ever taken for another, and no answer for that to another.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.client import Client, RawResponse, exchange
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

SILENCE = 3.0
"""Seconds after which a client takes it that no more comes."""

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /attack HTTP/1.1\r\nHost: h\r\n"
BLOCKED = b"POST /blocked HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

RULES = [
    {
        "_id": "path",
        "type": "regex",
        "block": True,
        "response": {"status": 403, "headers": {}, "body": {"error": "no"}},
        "regex_config": [{"conditions": [{"path": "request.route", "value": "^/blocked"}]}],
    },
    {
        "_id": "body",
        "type": "regex",
        "block": True,
        "response": {"status": 403, "headers": {}, "body": {"error": "no"}},
        "regex_config": [
            {"conditions": [{"path": "request.route", "value": "^/body"}, {"path": "request.body.a", "value": "^bad"}]}
        ],
    },
]


class Side:
    """One engine before an upstream of its own."""

    def __init__(self, engine: str, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        rules = folder / "rules.json"
        rules.write_text(json.dumps(RULES))
        self.upstream = stack.enter_context(ScriptedUpstream())
        options: dict[str, Option] = {
            "moesif_engine": engine,
            "moesif_sink_file": str(folder / "events"),
            "moesif_rules_file": str(rules),
            "moesif_disable_transaction_id": True,
            "moesif_flush_interval": 50,
            "jwt_gate": True,
            "jwt_required": False,
            "jwt_key": "s" * 32,
        }
        self.proxy = stack.enter_context(MoesifProxy(self.upstream.url, options, "--forwarded", "off"))

    def attack(self, raw: bytes) -> tuple[list[int], list[tuple[str, bytes]]]:
        """The statuses that come, and the targets and bodies that reach the upstream."""
        before = len(self.upstream.requests())
        answers: list[RawResponse] = []
        with Client(self.proxy.port, timeout=SILENCE) as client, suppress(OSError):
            client.send(raw)
            while (answer := client.read_response()) is not None:
                answers.append(answer)
        assert exchange(self.proxy.port, "GET", "/after") is not None
        assert "crashed" not in self.proxy.output
        took = [(request.target, request.body) for request in self.upstream.requests()[before:]]
        return [answer.status for answer in answers], [one for one in took if one[0] != "/after"]

    def converse(self, path: str, method: str, answer: bytes, *, closes: bool) -> tuple[RawResponse | None, bytes]:
        """What a client gets for a request that is answered so, and all that comes for another one behind it."""

        def respond(_request: RawRequest, connection: Connection) -> None:
            connection.send(answer)
            if closes:
                connection.close()

        self.upstream.answer(path, respond)
        with Client(self.proxy.port, timeout=10) as client:
            client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            got = client.read_response(method)
            try:
                client.send(b"GET /after HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                behind = client.stream.read()
            except ConnectionError:
                behind = b""
        other = exchange(self.proxy.port, "GET", "/other")
        assert other is not None
        assert (other.status, other.body) == (200, b'{"ok": true}')
        assert "crashed" not in self.proxy.output
        return got, behind


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("attacks")
    with ExitStack() as stack:
        yield Side("fast", folder / "fast", stack), Side("mitmproxy", folder / "mitmproxy", stack)


def with_length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


def with_coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + LAST


SMUGGLING = {
    "a length and a coding": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "a coding and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": with_length(b"5, 5"),
    "a length with a plus": with_length(b"+5"),
    "a length with a minus": with_length(b"-5"),
    "a length with a leading zero": with_length(b"05"),
    "a length in hex": with_length(b"0x5"),
    "a length with a point": with_length(b"5.0"),
    "a length with a blank": with_length(b"5 0"),
    "a length with an underscore": with_length(b"0_5"),
    "an empty length": with_length(b""),
    "a length of other digits": with_length("٥".encode()),
    "a length beyond 64 bits": with_length(b"18446744073709551621"),
    "a length behind a vertical tab": with_length(b"\x0b5"),
    "a length before a bare CR": with_length(b"5\r"),
    "identity": with_coding(b"identity"),
    "chunked, identity": with_coding(b"chunked, identity"),
    "chunked twice": with_coding(b"chunked, chunked"),
    "an unknown coding": with_coding(b"xchunked"),
    "a coding with a parameter": with_coding(b"chunked;q=1"),
    "a quoted coding": with_coding(b'"chunked"'),
    "a coding behind a vertical tab": with_coding(b"\x0bchunked"),
    "a coding with a NUL": with_coding(b"chunked\x00"),
    "an empty coding": with_coding(b""),
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + LAST,
    "two codings alike": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + LAST,
    "a tab before the colon": POST + b"Content-Length\t: 5\r\n\r\nhello",
    "a blank before the name": POST + b" Content-Length: 5\r\n\r\nhello",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + LAST,
    "a coding behind a bare LF": POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "a coding behind a bare CR": POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "a coding in HTTP/1.0": b"POST /attack HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "bare LF": b"POST /attack HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello",
    "a head that ends in two ways": POST + b"Content-Length: 5\n\r\n\r\nhello",
    "a NUL": POST + b"X: a\x00b\r\n\r\n",
    "a control character in a name": POST + b"X\x01: a\r\n\r\n",
    "no colon": POST + b"Nothing\r\n\r\n",
    "no name": POST + b": nothing\r\n\r\n",
    "two hosts": POST + b"Host: other\r\n\r\n",
    "two blanks in the request line": b"POST  /attack HTTP/1.1\r\nHost: h\r\n\r\n",
    "a blank in the target": b"POST /a ttack HTTP/1.1\r\nHost: h\r\n\r\n",
    "another version": b"POST /attack HTTP/2.0\r\nHost: h\r\n\r\n",
    "a version in lower case": b"POST /attack http/1.1\r\nHost: h\r\n\r\n",
    "no version": b"POST /attack\r\nHost: h\r\n\r\n",
    "an absolute target elsewhere": b"GET http://other/attack HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a blocked path with half a body": BLOCKED + b"Content-Length: 500000\r\n\r\n",
    "a size in two bases": CHUNKED + b"0x5\r\nhello\r\n" + LAST,
    "a size with a plus": CHUNKED + b"+5\r\nhello\r\n" + LAST,
    "a size with a minus": CHUNKED + b"-5\r\nhello\r\n" + LAST,
    "a size with an underscore": CHUNKED + b"0_5\r\nhello\r\n" + LAST,
    "a size that overflows": CHUNKED + b"10000000000000005\r\nhello\r\n" + LAST,
    "a size beyond everything": CHUNKED + b"f" * 20 + b"\r\nhello\r\n" + LAST,
    "an empty size": CHUNKED + b"\r\nhello\r\n" + LAST,
    "a size behind a blank": CHUNKED + b" 5\r\nhello\r\n" + LAST,
    "a size that ends with LF": CHUNKED + b"5\nhello\r\n" + LAST,
    "a size that ends with CR CR LF": CHUNKED + b"5\r\r\nhello\r\n" + LAST,
    "an extension with LF": CHUNKED + b"5;a\nb\r\nhello\r\n" + LAST,
    "an extension with CR": CHUNKED + b"5;a\rb\r\nhello\r\n" + LAST,
    "an extension with NUL": CHUNKED + b"5;a\x00\r\nhello\r\n" + LAST,
    "a chunk longer than its size": CHUNKED + b"3\r\nhello\r\n" + LAST,
    "a chunk that ends with LF": CHUNKED + b"5\r\nhello\n" + LAST,
    "a last chunk that ends with LF": CHUNKED + b"5\r\nhello\r\n0\n\n",
    "a trailer that is folded": CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
    "a trailer without a colon": CHUNKED + b"0\r\nX\r\n\r\n",
    "a trailer with a NUL": CHUNKED + b"0\r\nX: \x00\r\n\r\n",
    "a trailer behind a bare LF": CHUNKED + b"0\r\nX: a\nY: b\r\n\r\n",
    "trailers without end": CHUNKED + b"0\r\n" + b"X: y\r\n" * 20_000,
    "an extension without end": CHUNKED + b"5;" + b"x" * 100_000 + b"\r\nhello\r\n" + LAST,
}


@pytest.mark.parametrize("kind", SMUGGLING)
def test_nothing_hides_behind_a_request(kind: str, sides: tuple[Side, Side]) -> None:
    results = [side.attack(SMUGGLING[kind] + HIDDEN) for side in sides]
    assert results[0] == results[1]
    statuses, took = results[0]
    assert "/hidden" not in [target for target, _ in took]
    assert all(b"HTTP/1.1" not in body for _, body in took)
    assert statuses in ([], [400], [401], [403], [502])


def test_a_refusal_of_a_broken_body_is_the_last_answer(sides: tuple[Side, Side]) -> None:
    for side in sides:
        statuses, took = side.attack(BLOCKED + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n" + HIDDEN)
        assert statuses in ([], [403])  # mitmproxy's layers may not get to it
        assert took == []


PASSES = {
    "chunks with extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n' + LAST, b"hello"),
    "a size with leading zeros": (CHUNKED + b"0005\r\nhello\r\n00\r\n\r\n", b"hello"),
    "a size in upper case": (CHUNKED + b"A\r\nhellohello\r\n" + LAST, b"hellohello"),
    "blanks behind a size": (CHUNKED + b"5 \t\r\nhello\r\n" + LAST, b"hello"),
    "a coding in upper case": (POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n" + LAST, b"hello"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"hello"),
    "a length of nothing": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "a body that looks like a request": (POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, HIDDEN),
}


@pytest.mark.parametrize("kind", PASSES)
def test_what_everybody_reads_alike_passes_and_what_follows_is_another_request(
    kind: str, sides: tuple[Side, Side]
) -> None:
    raw, body = PASSES[kind]
    for side in sides:
        before = len(side.upstream.requests())
        with Client(side.proxy.port, timeout=10) as client:
            client.send(raw + HIDDEN)
            answers = [client.read_response(), client.read_response()]
        assert [answer and answer.status for answer in answers] == [200, 200]
        took = side.upstream.requests()[before:]
        assert [(one.target, one.body) for one in took] == [("/attack", body), ("/hidden", b"")]


def test_requests_behind_a_refused_one_are_answered_in_their_turn(sides: tuple[Side, Side]) -> None:
    refused = [
        BLOCKED + b"\r\n",
        BLOCKED + b"Content-Length: 0\r\n\r\n",
        BLOCKED + b"Content-Length: 5\r\n\r\nhello",
        BLOCKED + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + LAST,
        b'POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n{"a":"bad"} '[:-1],
    ]
    for side in sides:
        with Client(side.proxy.port, timeout=10) as client:
            client.send(b"".join(one + HIDDEN for one in refused))
            answers = [client.read_response() for _ in range(2 * len(refused))]
        assert [answer and answer.status for answer in answers] == [403, 200] * len(refused)


def test_a_request_behind_one_without_a_valid_token_is_answered(sides: tuple[Side, Side]) -> None:
    for side in sides:
        with Client(side.proxy.port, timeout=10) as client:
            client.send(POST + b"Authorization: Bearer a.b.c\r\n\r\n" + HIDDEN)
            answers = [client.read_response(), client.read_response()]
        assert [answer and answer.status for answer in answers] == [401, 200]


def test_a_client_that_does_not_read_its_refusals_is_not_read_either(sides: tuple[Side, Side]) -> None:
    fast, _ = sides
    before = fast.proxy.memory()
    with Client(fast.proxy.port, timeout=1.0) as client:
        with pytest.raises(TimeoutError):
            client.send((BLOCKED + b"\r\n") * 2_000_000)  # with 300 MB of answers, of which the kernel takes a few
        assert fast.proxy.memory() - before < 50_000_000  # most of it events on their way


SLOW_LINES = {
    "a size with blanks": CHUNKED + b"5;" + b" " * 8_000 + b"\n\r\n",
    "a long size with blanks": CHUNKED + b"5;" + b" " * 200_000 + b"\n\r\n",
    "a trailer of blanks": CHUNKED + b"0\r\nX:" + b" " * 60_000 + b"\x0b\r\n\r\n",
}


@pytest.mark.parametrize("kind", SLOW_LINES)
def test_no_line_costs_more_time_than_it_is_long(kind: str, sides: tuple[Side, Side]) -> None:
    """Its time as a process: h11's patterns took minutes for such a line."""
    for side in sides:
        before = cpu_seconds(side.proxy.pid)
        side.attack(SLOW_LINES[kind])
        assert cpu_seconds(side.proxy.pid) - before < 1.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS: dict[str, tuple[bytes, bool]] = {
    "garbage": (b"nonsense\r\n\r\n", False),
    "garbage without end": (b"nonsense", True),
    "nothing": (b"", True),
    "half a head": (OK + b"Content-Le", True),
    "HTTP/0.9": (b"<html>", True),
    "another version": (b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "a status that is none": (b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", False),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", False),
    "a folded line": (OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok", False),
    "a control character": (OK + b"X: \x01\r\nContent-Length: 2\r\n\r\nok", False),
    "a length and a coding": (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", False),
    "a length with a plus": (OK + b"Content-Length: +2\r\n\r\nok", False),
    "a length beyond 64 bits": (OK + b"Content-Length: 18446744073709551618\r\n\r\nok", True),
    "identity": (OK + b"Transfer-Encoding: identity\r\n\r\nok", True),
    "an unknown coding": (OK + b"Transfer-Encoding: xchunked\r\n\r\nok", True),
    "gzip and chunks": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False),
    "a short body": (OK + b"Content-Length: 5\r\n\r\nok", True),
    "until it closes": (OK + b"\r\nok", True),
    "broken chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", False),
    "a size that overflows": (OK + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n", False),
    "chunks without end": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", True),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n", False),
    "a broken trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX\r\n\r\n", False),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", False),
    "204 in chunks": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
    "205": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", False),
    "interim answers": (b"HTTP/1.1 103 A\r\nLink: x\r\n\r\n" * 3 + OK + b"Content-Length: 2\r\n\r\nok", False),
    "an interim answer and no other": (b"HTTP/1.1 103 A\r\n\r\n", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", False),
    "a body behind an answer without one": (b"HTTP/1.1 304 Not Modified\r\n\r\nbody", True),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_a_client_gets_the_same_of_a_strange_answer(kind: str, method: str, sides: tuple[Side, Side]) -> None:
    answer, closes = ANSWERS[kind]
    path = f"/{method}/{list(ANSWERS).index(kind)}"
    if method == "HEAD" and not kind.startswith("a body"):
        answer = answer.partition(b"ok")[0]
    fast, layers = (side.converse(path, method, answer, closes=closes) for side in sides)
    assert fast == layers


INTERIM = b"HTTP/1.1 103 Early Hints\r\n"
NO_INTERIM = {
    "a status that is none": b"HTTP/1.1 099 None\r\n",
    "a coding": INTERIM + b"Transfer-Encoding: chunked\r\n",
    "a length and a coding": INTERIM + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": INTERIM + b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a length beyond 64 bits": INTERIM + b"Content-Length: 18446744073709551618\r\n",
    "a blank in a name": INTERIM + b"X y: a\r\n",
    "a blank before the colon": INTERIM + b"X : a\r\n",
    "a bare CR": INTERIM + b"X: a\rb\r\n",
    "a folded line": INTERIM + b"X: a\r\n b\r\n",
}


@pytest.mark.parametrize("kind", NO_INTERIM)
def test_an_interim_answer_that_can_be_read_in_two_ways_reaches_nobody(kind: str, sides: tuple[Side, Side]) -> None:
    answer = NO_INTERIM[kind] + b"\r\n" + OK + b"Content-Length: 2\r\n\r\nok"
    for side in sides:
        got, behind = side.converse(f"/interim/{list(NO_INTERIM).index(kind)}", "GET", answer, closes=False)
        assert got is not None
        assert (got.status, behind) == (502, b"")


def test_304_in_chunks_has_no_last_chunk_either(sides: tuple[Side, Side]) -> None:
    """RFC 9112, 6.3: a client would take it for the beginning of the next answer."""
    for side in sides:
        answer = b"HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n"
        _, behind = side.converse("/304", "GET", answer, closes=False)
        assert behind.startswith(b"HTTP/1.1 200")


SECOND = OK + b"Content-Length: 5\r\n\r\nother"


@pytest.mark.parametrize("first", [OK + b"Content-Length: 2\r\n\r\nok", b"HTTP/1.1 204 No\r\n\r\n"])
def test_a_second_answer_on_a_kept_connection_reaches_nobody(first: bytes, sides: tuple[Side, Side]) -> None:
    """It is there when the next request comes, whatever the event loop hears of first."""
    fast, _ = sides
    sent = threading.Event()

    def answer_twice(_request: RawRequest, connection: Connection) -> None:
        connection.send(first)
        connection.send(SECOND)
        sent.set()

    fast.upstream.answer("/twice", answer_twice)
    for _ in range(50):
        sent.clear()
        with Client(fast.proxy.port) as one, Client(fast.proxy.port) as other:
            assert one.exchange("GET", "/twice") is not None
            assert sent.wait(10)
            answer = other.exchange("GET", "/other")
            assert answer is not None
            assert answer.body == b'{"ok": true}'


def test_a_connection_that_the_client_asked_to_close_is_not_kept(sides: tuple[Side, Side]) -> None:
    fast, _ = sides

    def asked() -> int:
        return sum(request.target in ("/closing", "/kept") for request in fast.upstream.requests())

    for closing in ([("Connection", "close")], [("Connection", "Close")]):
        before = asked()
        for _ in range(20):
            assert exchange(fast.proxy.port, "GET", "/closing", closing) is not None
            answer = exchange(fast.proxy.port, "POST", "/kept", body=b"{}")
            assert answer is not None
            assert answer.status == 200
        assert asked() - before == 40


def test_an_answer_before_the_body_was_sent_is_passed_on(sides: tuple[Side, Side]) -> None:
    """And what its upstream sends behind it is not kept."""
    go = threading.Event()

    def answer_early(request: RawRequest, connection: Connection) -> bool:
        if request.path != "/early":
            return False
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        with suppress(OSError):
            for _ in range(60):
                connection.send(b"x" * 1_000_000)
        connection.wait(go)
        return True

    for side in sides[:1]:
        side.upstream.on_head = answer_early
        before = side.proxy.memory()
        with Client(side.proxy.port) as client:
            client.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nx")
            answer: RawResponse | None = client.read_response()
            assert answer is not None
            assert (answer.status, answer.body) == (413, b"no")
            time.sleep(0.5)  # for what must not be read to be read
            assert side.proxy.memory() - before < 10_000_000
        go.set()

"""What a collector says of a refused event is told, and nothing of what was sent is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.receivers.said import LONGEST, PLAIN, reason
from tests.delivery.pipelines import an_instance, sending
from tests.support import APPLICATION_ID
from tests.support.collector import Answer, Received, ScriptedCollector

SENT = json.dumps(
    [{"request": {"uri": "http://h/orders", "headers": {"x": "Bearer t0ken"}}, "user_id": "ada"}]
).encode()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", ""),
        (b"too large", "too large"),
        (b'{"message": "request.uri is required"}', "request.uri is required"),
        (b'{"error": {"message": "uri must be a string"}}', "uri must be a string"),
        (b'{"errors": ["no time", "no verb"]}', '["no time","no verb"]'),
        (b'{"code": 17}', '{"code":17}'),
        (b"<html><head><title>403 Forbidden</title></head><body><h1>nginx</h1></body></html>", "403 Forbidden nginx"),
        (b"the value 't0ken' of headers.x, Bearer t0ken", "the value '*****' of headers.x, ***** *****"),
        (b"no such id SECRET-ID", "no such id *****"),
        (b"a\nb\x1b[2J\x00c", "a b [2J c"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_what_is_told(answer: bytes, told: str) -> None:
    assert reason(answer, SENT, "SECRET-ID") == told


def test_a_long_answer_is_cut() -> None:
    assert reason(b"x" * 100_000, SENT, "") == "x" * LONGEST + "..."
    assert len(reason(b"<" * 100_000, SENT, "")) <= LONGEST + 3
    assert len(reason(b"y y " * 100_000, b"y" * 1_000_000, "")) <= LONGEST + 3


WORD = st.text(st.characters(categories=["L", "N"]), min_size=8, max_size=20).filter(
    lambda word: word.lower() not in PLAIN
)


@given(
    WORD, st.text(max_size=20), st.text(max_size=20), st.sampled_from(["", "{}", '{{"message": "{}"}}', "<p>{}</p>"])
)
def test_a_value_that_was_sent_is_never_told(secret: str, before: str, after: str, form: str) -> None:
    sent = json.dumps([{"request": {"body": {"a": f"{before} {secret} {after}"}}}], ensure_ascii=False).encode()
    assert secret not in reason(form.format(f"bad value {secret}").encode(), sent, "")


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as collector:
        yield collector


@pytest.mark.parametrize("compressed", [True, False])
def test_the_log_names_the_refused_event_and_why(
    collector: ScriptedCollector, caplog: pytest.LogCaptureFixture, compressed: bool
) -> None:
    body = json.dumps({"message": f"metadata is too deep for {APPLICATION_ID}"}).encode()
    headers = {"Content-Encoding": "gzip"} if compressed else {}
    answer = Answer(400, headers, gzip.compress(body) if compressed else body)

    def refuse(received: Received) -> Answer | None:
        return answer if any(event["transaction_id"] == "e2" for event in received.events) else None

    collector.script = refuse
    instance = an_instance(collector, APPLICATION_ID)
    with sending(None, instance) as proxy:
        proxy.put(instance, "e1", "e2", "e3")
        collector.wait_for(2)
    assert "moesif: the receiver refused event e2 (status 400: metadata is too deep for *****)" in caplog.messages

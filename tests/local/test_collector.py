"""The local collector over its socket, as a sender sees it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
import requests

from mitmproxy_moesif.local.server import LocalStack
from tests.local.events import APPLICATION, encode, make_event
from tests.support.client import exchange

CONFIG_TAG = "X-Moesif-Config-Etag"
RULES_TAG = "X-Moesif-Rules-Tag"


def post(local: LocalStack, body: bytes, path: str = "/v1/events/batch", **headers: str) -> requests.Response:
    return requests.post(local.collector_url + path, body, headers={**APPLICATION, **headers}, timeout=10)


def kept(local: LocalStack) -> list[str]:
    return [json.loads(event.raw)["transaction_id"] for event in local.store.newest(1000)]


def test_takes_a_batch(local: LocalStack) -> None:
    answer = post(local, encode(make_event(1), make_event(2)))
    assert (answer.status_code, answer.content) == (201, b"")
    assert kept(local) == ["id-2", "id-1"]


@pytest.mark.parametrize(("encoding", "encoder"), [("deflate", zlib.compress), ("gzip", gzip.compress)])
def test_takes_a_compressed_batch(local: LocalStack, encoding: str, encoder: Callable[[bytes], bytes]) -> None:
    assert post(local, encoder(encode(make_event(1))), **{"Content-Encoding": encoding}).status_code == 201
    assert kept(local) == ["id-1"]


def test_takes_a_single_event(local: LocalStack) -> None:
    assert post(local, json.dumps(make_event(1)).encode(), "/v1/events").status_code == 201
    assert post(local, encode(make_event(2)), "/v1/events").status_code == 201
    assert kept(local) == ["id-2", "id-1"]


def test_takes_a_resend_for_what_it_is(local: LocalStack) -> None:
    for _ in range(3):
        assert post(local, encode(make_event(1))).status_code == 201
    assert kept(local) == ["id-1"]
    assert local.store.counts().duplicates == 2


def test_refuses_a_batch_whole_and_says_why(local: LocalStack) -> None:
    answer = post(local, encode(make_event(1), {}))
    assert (answer.status_code, answer.json()) == (400, {"error": "an event must have an object `request`"})
    assert answer.headers["Content-Type"] == "application/json"
    assert post(local, json.dumps(make_event(1)).encode()).status_code == 400
    assert post(local, encode(make_event(1, metadata="x" * 1_000_000))).status_code == 413
    assert post(local, b"[" + b" " * 50_000_000 + b"]").status_code == 413
    assert kept(local) == []


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/events/batch"), ("GET", "/v1/rules"), ("PUT", "/v1/config")]
)
def test_requires_an_application_id(local: LocalStack, method: str, path: str, value: str | None) -> None:
    headers = {} if value is None else {"X-Moesif-Application-Id": value}
    answer = requests.request(method, local.collector_url + path, data=b"[]", headers=headers, timeout=10)
    assert answer.status_code == 401
    assert kept(local) == []


def test_hands_out_its_documents_with_their_tags(local: LocalStack) -> None:
    config = requests.get(f"{local.collector_url}/v1/config", headers=APPLICATION, timeout=10)
    rules = requests.get(f"{local.collector_url}/v1/rules", headers=APPLICATION, timeout=10)
    taken = post(local, b"[]")

    assert (config.json(), rules.json()) == ({}, [])
    assert config.headers["ETag"] == taken.headers[CONFIG_TAG]
    assert rules.headers["ETag"] == taken.headers[RULES_TAG]
    known = {**APPLICATION, "If-None-Match": config.headers["ETag"]}
    again = requests.get(f"{local.collector_url}/v1/config", headers=known, timeout=10)
    assert (again.status_code, again.content) == (304, b"")


def test_a_put_changes_the_document_and_its_tag_alone(local: LocalStack) -> None:
    before = post(local, b"[]").headers
    rules = [{"_id": "r", "name": "block", "type": "regex", "block": True}]

    put = requests.put(f"{local.collector_url}/v1/rules", json=rules, headers=APPLICATION, timeout=10)

    after = post(local, b"[]").headers
    assert put.status_code == 204
    assert requests.get(f"{local.collector_url}/v1/rules", headers=APPLICATION, timeout=10).json() == rules
    assert after[RULES_TAG] != before[RULES_TAG]
    assert after[CONFIG_TAG] == before[CONFIG_TAG]


def test_a_put_of_nonsense_changes_nothing(local: LocalStack) -> None:
    tag = local.config.current().tag
    answer = requests.put(f"{local.collector_url}/v1/config", b"[]", headers=APPLICATION, timeout=10)
    assert (answer.status_code, answer.json()) == (400, {"error": "must be a JSON object"})
    assert local.config.current().tag == tag


def test_documents_can_be_set_in_process(local: LocalStack) -> None:
    local.config.put(b'{"sample_rate": 10}')
    answer = requests.get(f"{local.collector_url}/v1/config", headers=APPLICATION, timeout=10)
    assert answer.json() == {"sample_rate": 10}


def test_other_paths_and_methods(local: LocalStack) -> None:
    assert requests.get(f"{local.collector_url}/v2/events", headers=APPLICATION, timeout=10).status_code == 404
    assert requests.get(f"{local.collector_url}/v1/events", headers=APPLICATION, timeout=10).status_code == 405


def test_a_chunked_batch_on_a_connection_that_stays(local: LocalStack) -> None:
    port = int(local.collector_url.rpartition(":")[2])
    headers = [("Host", f"127.0.0.1:{port}"), *APPLICATION.items()]
    answer = exchange(port, "POST", "/v1/events/batch", headers, encode(make_event(1)), chunked=True)
    assert answer is not None
    assert answer.status == 201
    assert kept(local) == ["id-1"]

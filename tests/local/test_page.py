"""The page that shows what was received."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests

from mitmproxy_moesif.local.intake import read_batch
from mitmproxy_moesif.local.server import LocalStack
from tests.local.events import APPLICATION, encode, make_event


def fill(local: LocalStack, *events: dict[str, Any]) -> None:
    local.store.add(read_batch(encode(*events)))


def get(local: LocalStack, path: str, **headers: str) -> requests.Response:
    return requests.get(local.page_url + path, headers=headers, timeout=10)


def listed(local: LocalStack, query: str = "") -> list[str]:
    answer = get(local, f"/events{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    return [event["transaction_id"] for event in answer.json()]


def test_newest_first_a_hundred_unless_asked_otherwise(local: LocalStack) -> None:
    assert listed(local) == []
    fill(local, *(make_event(number) for number in range(250)))
    assert listed(local) == [f"id-{number}" for number in range(249, 149, -1)]
    assert listed(local, "?limit=2") == ["id-249", "id-248"]
    assert listed(local, "?limit=50") == [f"id-{number}" for number in range(249, 199, -1)]
    assert listed(local, "?limit=10000") == [f"id-{number}" for number in range(249, -1, -1)]


def test_who_asks_before_the_first_event_has_come_waits_a_moment_for_it(local: LocalStack) -> None:
    answers: list[list[str]] = []
    asking = threading.Thread(target=lambda: answers.append(listed(local)))
    asking.start()
    fill(local, make_event(1))
    asking.join(10)
    assert answers == [["id-1"]]


def test_events_are_shown_as_they_came(local: LocalStack) -> None:
    text = encode(make_event(metadata="?")).decode().replace('"?"', '{"b": 1.10, "a": 12345678901234567890123}')
    local.store.add(read_batch(text.encode()))
    assert get(local, "/events").text.strip() == text
    assert get(local, "/events/id-1").text == text[1:-1]


def test_filters(local: LocalStack) -> None:
    fill(local, make_event(1, response={"status": 200}, user_id="ann"), make_event(2, company_id="a&b"), make_event(3))
    assert listed(local, "?status=200") == ["id-1"]
    assert listed(local, "?user_id=ann&verb=GET") == ["id-1"]
    assert listed(local, "?company_id=a%26b") == ["id-2"]
    assert listed(local, "?uri=example.com/3") == ["id-3"]
    assert listed(local, "?verb=POST") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=10001", "limit=-1", "limit=", "status=abc", "lmit=1", "limit=²"]
)
def test_a_query_that_makes_no_sense_is_told_so(local: LocalStack, query: str) -> None:
    answer = get(local, f"/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(query.partition("=")[0])


def test_one_event(local: LocalStack) -> None:
    fill(local, make_event(1))
    assert get(local, "/events/id-1").json() == make_event(1)
    assert get(local, "/events/id-2").status_code == 404


def test_delete_forgets_all(local: LocalStack) -> None:
    fill(local, make_event(1), make_event(2))
    assert requests.delete(f"{local.page_url}/events", timeout=10).json() == {"forgotten": 2}
    assert listed(local) == []


def test_the_index_says_what_is_here(local: LocalStack) -> None:
    fill(local, make_event(1), make_event(1))
    index = get(local, "/").json()
    assert index["events"] == {"received": 2, "duplicates": 1, "kept": 1}
    assert "GET /events" in index["see"]
    assert get(local, "/nothing").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "[", "10.0.0.1"])
def test_a_page_of_another_site_cannot_read_it_through_its_own_name(local: LocalStack, host: str) -> None:
    fill(local, make_event(1))
    for path in ("/", "/events", "/events/id-1", "/nothing"):
        answer = get(local, path, Host=host)
        assert answer.status_code in (400, 403)
        assert "id-1" not in answer.text
    assert requests.delete(f"{local.page_url}/events", headers={"Host": host}, timeout=10).status_code in (400, 403)
    assert listed(local) == ["id-1"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:8090", "a.localhost."]
)
def test_loopback_names_may(local: LocalStack, host: str) -> None:
    assert get(local, "/events", Host=host).status_code == 200


def test_nothing_is_taken_for_a_web_page(local: LocalStack) -> None:
    fill(local, make_event(1, metadata="<script>alert(1)</script>"))
    headers = get(local, "/events").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "server", "path", "body"),
    [
        ("POST", "collector", "/api/ingestData", b'{"batchData": [1]}'),
        ("POST", "collector", "/v1/events", encode(make_event(2))),
        ("PUT", "collector", "/v1/config", b"{}"),
        ("DELETE", "page", "/events", b""),
    ],
)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_changes_nothing(
    local: LocalStack, method: str, server: str, path: str, body: bytes, origin: str
) -> None:
    fill(local, make_event(1))
    url = local.collector_url if server == "collector" else local.page_url
    answer = requests.request(method, url + path, data=body, headers={**APPLICATION, "Origin": origin}, timeout=10)
    assert (answer.status_code, answer.json()) == (403, {"error": "changes from another site's page are refused"})
    assert listed(local) == ["id-1"]
    assert requests.get(f"{local.collector_url}/api/ingestData", timeout=10).json() == {"kept": 0, "forgotten": {}}


@pytest.mark.parametrize("path", ["/", "/events?limit=10000", "/users", "/exchanges", "/exchanges/stream", "/stats"])
def test_a_page_of_another_site_uses_nothing_but_links(local: LocalStack, path: str) -> None:
    fill(local, make_event(1))
    asked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    assert get(local, path, **asked).status_code == 403
    with requests.get(
        local.page_url + path, headers=asked | {"Sec-Fetch-Dest": "document"}, stream=True, timeout=10
    ) as link:
        assert link.status_code == 200

"""Users, companies and subscriptions that the collector was told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.local.intake import MAX_EVENT_BYTES, Profile, RefusedError
from mitmproxy_moesif.local.profiles import ProfileStore, laid_over
from mitmproxy_moesif.local.server import LocalStack
from mitmproxy_moesif.local.store import EventStore, StoreError
from tests.local.events import APPLICATION


def users(*names: str, **more: Any) -> list[Profile]:
    return [Profile(name, {"user_id": name, **more}) for name in names]


def names(store: ProfileStore) -> list[str]:
    return [json.loads(raw)["user_id"] for raw in store.newest("users", 100)]


@pytest.mark.parametrize(
    ("known", "told", "then"),
    [
        ({"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
        ({"m": {"x": 1, "y": {"z": 1}}}, {"m": {"y": {"w": 2}}}, {"m": {"x": 1, "y": {"z": 1, "w": 2}}}),
        ({"m": {"x": 1}}, {"m": "text"}, {"m": "text"}),
        ({"m": [1, 2]}, {"m": [3]}, {"m": [3]}),
        ({"m": 1}, {"m": None, "n": None}, {"m": 1, "n": None}),
    ],
)
def test_what_is_told_is_laid_over_what_was_known(
    known: dict[str, Any], told: dict[str, Any], then: dict[str, Any]
) -> None:
    assert laid_over(known, told) == then


def test_the_newest_are_kept_by_number_and_by_size() -> None:
    with ProfileStore(keep=3) as store:
        store.add("users", users("a", "b", "c"))
        store.add("users", users("a", "d"))
        assert names(store) == ["d", "a", "c"]
    with ProfileStore(keep_bytes=1000) as store:
        for name in "abcd":
            store.add("users", users(name, text="x" * 400))
        assert names(store) == ["d", "c"]


def test_one_that_grows_too_large_is_refused_and_nothing_of_its_batch_is_kept() -> None:
    with ProfileStore() as store:
        store.add("users", users("a", text="x" * (MAX_EVENT_BYTES // 2)))
        with pytest.raises(RefusedError):
            store.add("users", [*users("b"), *users("a", more="x" * (MAX_EVENT_BYTES // 2))])
        assert names(store) == ["a"]


def test_they_are_in_the_file_of_the_events(tmp_path: Path) -> None:
    path = tmp_path / "received.sqlite"
    with EventStore(path), ProfileStore(path) as store:
        store.add("users", users("a"))
    with ProfileStore(path) as store, EventStore(path):
        assert names(store) == ["a"]
    (tmp_path / "text").write_text("text" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        ProfileStore(tmp_path / "text")


def post(local: LocalStack, path: str, body: bytes) -> requests.Response:
    return requests.post(local.collector_url + path, body, headers=APPLICATION, timeout=10)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/users", b'{"user_id": "a", "n": 123456789012345678901234567890}', 201),
        ("/v1/subscriptions", b'{"subscription_id": "a", "x": "\\ud800"}', 201),
        ("/v1/companies/batch", b"[]", 201),
        ("/v1/users", b'[{"user_id": "a"}]', 400),
        ("/v1/users/batch", b'{"user_id": "a"}', 400),
        ("/v1/users/batch", b'[{"user_id": "a"}, {"user_id": 5}]', 400),
        ("/v1/companies", b'{"user_id": "a"}', 400),
        ("/v1/users", b'{"user_id": ""}', 400),
        ("/v1/users", b"[" * 100_000, 400),
        ("/v1/users", b'{"user_id": NaN}', 400),
        ("/v1/users", b'{"user_id": "a", "n": ' + b"1" * 10_000 + b"}", 400),
        ("/v1/users", b'{"user_id": "a", "n": 1e999}', 400),
        ("/v1/users", b"\xff", 400),
        ("/v1/nobody", b"{}", 404),
    ],
)
def test_what_cannot_be_read_is_refused_whole(local: LocalStack, path: str, body: bytes, status: int) -> None:
    answer = post(local, path, body)
    assert answer.status_code == status
    assert status == 201 or answer.json().keys() == {"error"}
    assert status == 201 or not any(local.profiles.counts().values())


@pytest.mark.parametrize("depth", [900, 1500, 5000])
def test_deep_documents_laid_over_each_other_are_refused(local: LocalStack, depth: int) -> None:
    deep = b'{"user_id": "a", "m": ' + b'{"m": ' * depth + b"1" + b"}" * (depth + 1)
    assert {post(local, "/v1/users", deep).status_code for _ in range(3)} <= {201, 400}
    assert post(local, "/v1/users", b'{"user_id": "b"}').status_code == 201


def test_the_page_shows_them(local: LocalStack) -> None:
    post(local, "/v1/users/batch", b'[{"user_id": "a"}, {"user_id": "b/c"}]')
    page = local.page_url
    assert requests.get(f"{page}/users", timeout=10).json() == [{"user_id": "b/c"}, {"user_id": "a"}]
    assert requests.get(f"{page}/users?limit=1", timeout=10).json() == [{"user_id": "b/c"}]
    assert requests.get(f"{page}/users/b%2Fc", timeout=10).json() == {"user_id": "b/c"}
    assert requests.get(f"{page}/companies", timeout=10).json() == []
    assert requests.get(f"{page}/users/x", timeout=10).status_code == 404
    assert requests.get(f"{page}/users?limit=x", timeout=10).status_code == 400
    assert requests.get(page, timeout=10).json()["users"] == 2

"""A proxy as the listener sees it, that counts what it is asked and fails where a test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from copy import deepcopy
from typing import Any

from mitmproxy_moesif.admin.source import NotFound, Status
from mitmproxy_moesif.kong.entities import Consumer, Entity, Route, Service
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges

ID = "6a7a3a5e-2d0b-4a51-9d0c-0b0f6c1d2e3f"
APPLICATION_ID = "5ecre7-application-id"

PLUGIN: Mapping[str, Any] = {
    "id": ID,
    "name": "moesif",
    "instance_name": "orders",
    "enabled": True,
    "config": {"application_id": APPLICATION_ID, "debug": False, "request_header_masks": ()},
    "service": None,
    "route": None,
    "consumer": None,
    "protocols": ["http", "https"],
    "tags": None,
    "created_at": 1_700_000_000,
    "updated_at": 1_700_000_000,
}


class FakeSource:
    """Holds one plugin; `fault` is raised by every method but `health`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.changes: list[Mapping[str, Any]] = []
        self.explained: list[tuple[str, str | None, str]] = []
        self.fault: Exception | None = None
        self.wrong: str | None = None
        self.exchanges: RecentExchanges | None = RecentExchanges(Keep(100))
        self.left_alone: set[str] = set()
        service = Service(id="s1", name="orders", host="orders", tags=("a",))
        self.listed: dict[str, Sequence[Entity]] = {
            "services": [service, Service(id="s2", name="quiet", host="quiet", created_at=5)],
            "routes": [Route(id="r1", name="list", paths=("/orders",), service=service, headers={"x-a": ("1",)})],
            "consumers": [Consumer(id="c1", username="ada", group_ids=("g1",))],
        }
        self.entities = {
            ("services", "orders"): "s1",
            ("services", "quiet"): "s2",
            ("routes", "list"): "r1",
            ("consumers", "ada"): "c1",
        }
        self.state: Status = {
            "version": "1.2.3",
            "uptime": 61.5,
            "captured": 30,
            "recovered": 2,
            "delivered": 20,
            "waiting": {"memory": 3, "disk": 4},
            "dropped": {"queue_full": 2, "refused": 1},
            "excluded": 5,
            "engines": {"fast": 7, "mitmproxy": 2},
            "faults": {"sender": 1},
            "oldest_waiting": 12.25,
            "destinations": {
                "abc": {"state": "up", "reason": "", "since": None, "next_try": None},
                "def": {"state": "unauthorized", "reason": "401", "since": "2026-11-22T09:05:07Z"},
            },
            "unsent": {
                "def!quarantine": {"state": "quarantined", "events": 2, "since": "2026-11-22T09:05:07Z"},
                "ghi!quarantine": {"state": "quarantined", "events": 1, "since": "2026-11-22T09:05:07Z"},
            },
            "spool": {"state": "on", "bytes": 4096, "max_bytes": 1_000_000},
            "workers": {"ready": 1, "wanted": 2, "restarts": 3},
        }
        self.plugin: dict[str, Any] = deepcopy(dict(PLUGIN))

    def status(self) -> Status:
        self._note("status")
        return self.state

    def trouble(self) -> str | None:
        self.asked["trouble"] += 1
        return self.wrong

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        self._note("recent")
        answer: Future[bytes | None] = Future()
        answer.set_result(self.exchanges.answer(query) if self.exchanges is not None else None)
        return answer

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        self._note("explain")
        self.explained.append((method, host, path))
        return {"instance": {"id": ID}, "why": "global"}

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        self.asked["plugins"] += 1
        return [self.plugin]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        assert plugin_id == ID
        self._take("patch", changes)
        return {**self.plugin, "config": {**self.plugin["config"], **changes.get("config", {})}}

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> Mapping[str, Any]:
        assert plugin_id == ID
        self.left_alone = set(kept)
        self._take("replace", given)
        return {**self.plugin, **given}

    def list_entities(self, kind: str) -> Sequence[Entity]:
        return self.listed[kind]

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        self._take("add", given)
        return {**self.plugin, **given}

    def remove_plugin(self, plugin_id: str) -> None:
        assert plugin_id == ID
        self._note("remove")

    def find_entity(self, kind: str, name: str) -> str:
        if name in [id_ for (of, _), id_ in self.entities.items() if of == kind]:
            return name
        if (kind, name) not in self.entities:
            raise NotFound(name)
        return self.entities[kind, name]

    def _take(self, what: str, changes: Mapping[str, Any]) -> None:
        self.changes.append(changes)
        self._note(what)

    def _note(self, what: str) -> None:
        self.asked[what] += 1
        if self.fault is not None:
            raise self.fault

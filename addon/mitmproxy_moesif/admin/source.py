"""The interface between the listener and the proxy, and the errors of a change.

All methods are called from the listener's thread, one at a time. They are fast, and safe beside the proxy's threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol, TypedDict

from mitmproxy_moesif.capture.traffic import TrafficStatus
from mitmproxy_moesif.delivery.ledger import Reading, Tally
from mitmproxy_moesif.kong.entities import Entity
from mitmproxy_moesif.kong.errors import (
    Key,
    foreign_key_unresolved,
    foreign_key_violation,
    unique_violation,
)

type Fields = Mapping[str, Any]
"""Errors by field, nested like the entity: `{"config": {"debug": "expected a boolean"}}`."""


class Waiting(TypedDict):
    """Numbers of waiting events, by place."""

    memory: int
    disk: int


class Destination(TypedDict, total=False):
    """The state of a receiver; `unknown` before the first request.

    `account` is set once Moesif has accepted the id in a response (to configuration, rules or events). `since` and
    `next_try` are ISO 8601 in UTC, or None.
    """

    state: Literal["unknown", "up", "down", "unauthorized"]
    reason: str
    since: str | None
    next_try: str | None
    account: Literal["accepted"]


class UnsentStatus(TypedDict):
    """Events that nobody sends, and why; `since` is ISO 8601 in UTC."""

    state: Literal["quarantined", "not configured"]
    events: int
    since: str


class SpoolStatus(TypedDict, total=False):
    """The spool on disk. `state` is `on`, `off` or `failing`, `reason` explains the last; sizes are bytes."""

    state: str
    reason: str
    bytes: int
    max_bytes: int


class WorkersStatus(TypedDict):
    """With several workers: how many serve, how many are configured, and the number of restarts."""

    ready: int
    wanted: int
    restarts: int


class ReceiverStatus(TypedDict):
    """The records of a lossy receiver: captured = delivered + waiting + dropped."""

    captured: int
    delivered: int
    waiting: int
    dropped: Mapping[str, int]


class Status(TypedDict, total=False):
    """The content of `GET /status` and of the metrics; missing parts are not shown.

    Numbers of events: `captured` (including `recovered`, which were found on disk), `delivered`, `waiting`, `dropped`
    by cause; captured = delivered + waiting + dropped. `excluded` exchanges were never captured. `faults` (by kind) are
    errors of the addon. `uptime` and `oldest_waiting` are seconds; the latter ignores `unsent` events, which nobody
    sends, and is None if no others wait. `receivers` are the lossy ones, by name. `traffic` counts all requests;
    `engines` counts exchanges since the start, by engine. `kong` describes the loaded configuration and its instances,
    in plain values.
    """

    version: str
    uptime: float
    captured: int
    recovered: int
    delivered: int
    waiting: Waiting
    dropped: Mapping[str, int]
    excluded: int
    engines: Mapping[str, int]
    faults: Mapping[str, int]
    oldest_waiting: float | None
    destinations: Mapping[str, Destination]
    unsent: Mapping[str, UnsentStatus]
    receivers: Mapping[str, ReceiverStatus]
    spool: SpoolStatus
    traffic: TrafficStatus
    workers: WorkersStatus
    kong: Mapping[str, Any]


def receivers_of(reading: Reading, configured: Iterable[str] = ()) -> dict[str, ReceiverStatus]:
    """The lossy receivers that got records, and those configured."""
    return {
        name: ReceiverStatus(
            captured=tally.captured, delivered=tally.delivered, waiting=tally.waiting, dropped=tally.dropped
        )
        for name, tally in (dict.fromkeys(configured, Tally()) | reading.lossy).items()
    }


class AdminSource(Protocol):
    """The proxy as seen from its listener, and its instances as Kong's plugin entities.

    An entity has `id`, `name`, `instance_name`, `enabled`, `config`, `service`, `route`, `consumer` (each `{"id": ...}`
    or None), `protocols`, `tags`, `created_at` and `updated_at` (Unix seconds).
    """

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        """All instances, preferably without secrets; the listener also redacts those it knows by name."""

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change an instance at once; returns the whole entity. From a form all values are texts or lists of texts.

        Raises `NotFound`, `SchemaViolation`, `UniqueViolation`, `Unsupported` or `NotKept`; then nothing has changed,
        but see `NotKept`.
        """

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> Mapping[str, Any]:
        """Reset an instance to its configuration and apply only the given changes; returns the whole entity.

        Earlier changes are undone, except those to the parameters `kept`. Raises like `patch_plugin`.
        """

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add an instance; returns the whole entity. Raises like `patch_plugin`, and `ForeignKeyViolation`."""

    def remove_plugin(self, plugin_id: str) -> None:
        """Remove an instance that was added here. Raises `NotFound`, `Unsupported`, `NotKept`."""

    def list_entities(self, kind: str) -> Sequence[Entity]:
        """All `services`, `routes` or `consumers`."""

    def find_entity(self, kind: str, name: str) -> str:
        """The id of one of the `services`, `routes` or `consumers`, by id or name. Raises `NotFound`."""

    def status(self) -> Status: ...

    def trouble(self) -> str | None:
        """Why events do not flow; None if they do."""

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        """Recent exchanges, as from `DeliveryClient.recent`."""

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        """The instance that applies to such a request, and why; plain JSON values without `config`."""


def is_uuid(given: object) -> bool:
    """Whether a value can be an entity's id."""
    try:
        return str(uuid.UUID(str(given))) == str(given).lower()
    except ValueError:
        return False


class NotFound(Exception):  # noqa: N818 - the names are those of Kong's errors
    """There is no such entity."""


class SchemaViolation(Exception):  # noqa: N818
    """An invalid entity, with errors by field. Texts have no secrets."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        faults = list(_faults(fields))
        count = "schema violation" if len(faults) == 1 else f"{len(faults)} schema violations"
        super().__init__(f"{count} ({'; '.join(faults)})")


class UniqueViolation(Exception):  # noqa: N818
    """Another instance has this scope or name. `fields` are those that both have in common."""

    def __init__(self, message: str, fields: Fields | None = None) -> None:
        self.fields = fields or {}
        super().__init__(message)

    @classmethod
    def of(cls, key: Key) -> UniqueViolation:
        return cls(unique_violation(key), key)


class ForeignKeyViolation(Exception):  # noqa: N818
    """The entity that an instance refers to does not exist. Kong has two codes for this: by id, and by name."""

    def __init__(self, code: int, name: str, message: str, fields: Fields) -> None:
        self.code = code
        self.name = name
        self.fields = fields
        super().__init__(message)

    @classmethod
    def of(cls, field: str, by: str, value: str) -> ForeignKeyViolation:
        """`field`: `service`, `route` or `consumer`. `by`: `id`, or the field with the name."""
        kind = f"{field}s"
        if by == "id":
            key = {"id": value}
            return cls(4, "foreign key violation", foreign_key_violation(key, kind), {field: key})
        fault = foreign_key_unresolved({by: value}, kind)
        message = f"foreign key unresolved ({field}.{by}: {fault})"
        return cls(13, "foreign keys unresolved", message, {field: {by: fault}})


class Unsupported(Exception):  # noqa: N818
    """An instance cannot be changed in this way here; the text says what to do instead."""


class NotKept(Exception):  # noqa: N818
    """A change cannot be written to the state file; the text says whether it is in effect nevertheless."""


def _faults(fields: Fields, above: str = "") -> list[str]:
    found = []
    for name, fault in sorted(fields.items()):
        if isinstance(fault, Mapping):
            found += _faults(fault, f"{above}{name}.")
        elif isinstance(fault, str):
            found.append(fault if name == "@entity" else f"{above}{name}: {fault}")
        else:
            found += [text if name == "@entity" else f"{above}{name}: {text}" for text in fault]
    return found

"""What the listener shows and changes, as the proxy gives it, and the errors a change may meet.

All methods are called from the listener's thread, one at a time: they are quick, and safe beside the proxy's threads.
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
"""What is wrong with which field; nested like the entity: `{"config": {"debug": "expected a boolean"}}`."""


class Waiting(TypedDict):
    """Numbers of events that wait, by where they are."""

    memory: int
    disk: int


class Destination(TypedDict, total=False):
    """How a receiver does, `unknown` where nothing was asked of it.

    `account` is there once Moesif has answered that it knows the id, with configuration, rules or to events.
    `since` and `next_try` are ISO 8601 in UTC, None where there is nothing to tell.
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
    """What is on disk. `state` in a word (`on`, `off`, `failing`), `reason` where it is not well; sizes are bytes."""

    state: str
    reason: str
    bytes: int
    max_bytes: int


class WorkersStatus(TypedDict):
    """Of several workers: how many serve, how many there should be, how often one was started again."""

    ready: int
    wanted: int
    restarts: int


class ReceiverStatus(TypedDict):
    """The records of a receiver that may lose some: captured = delivered + waiting + dropped."""

    captured: int
    delivered: int
    waiting: int
    dropped: Mapping[str, int]


class Status(TypedDict, total=False):
    """What `GET /status` shows and the metrics are made of; a part that is not given is not shown.

    Numbers of events: `captured` (of these, `recovered` were found on disk), `delivered`, `waiting`, `dropped` by
    cause; captured = delivered + waiting + dropped. `excluded` exchanges were never captured, `faults` (by kind) are
    errors of ours. `uptime` and `oldest_waiting` are seconds, the latter None where nothing waits but what is `unsent`:
    of that, by destination, nobody sends. `receivers` are those that may lose records, by name. `traffic` counts all
    that passes, `engines` the exchanges that began since the start, by what carries them. `kong` tells which
    configuration and instances are loaded, in plain values.
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
    """Those that got records, and those that will get some."""
    return {
        name: ReceiverStatus(
            captured=tally.captured, delivered=tally.delivered, waiting=tally.waiting, dropped=tally.dropped
        )
        for name, tally in (dict.fromkeys(configured, Tally()) | reading.lossy).items()
    }


class AdminSource(Protocol):
    """The proxy, seen from its listener, and its instances as Kong's plugin entities.

    An entity has `id`, `name`, `instance_name`, `enabled`, `config`, `service`, `route`, `consumer` (each `{"id": ...}`
    or None), `protocols`, `tags`, `created_at` and `updated_at` (Unix seconds).
    """

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        """All of them. Secrets should not be in there; the listener takes out those it knows by name."""

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change an instance at once; returns the whole entity. From a form all values are texts or lists of texts.

        Raises `NotFound`, `SchemaViolation`, `UniqueViolation`, `Unsupported`, `NotKept`; nothing has changed then, but
        see `NotKept`.
        """

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> Mapping[str, Any]:
        """Have an instance be as it is configured but for what is given; returns the whole entity.

        What was changed before and is not given is changed no more, but for the parameters `kept`. Raises as
        `patch_plugin` does.
        """

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add an instance; returns the whole entity. Raises as `patch_plugin` does, and `ForeignKeyViolation`."""

    def remove_plugin(self, plugin_id: str) -> None:
        """Take an instance away that was added here. Raises `NotFound`, `Unsupported`, `NotKept`."""

    def list_entities(self, kind: str) -> Sequence[Entity]:
        """All `services`, `routes` or `consumers`."""

    def find_entity(self, kind: str, name: str) -> str:
        """The id of one of the `services`, `routes` or `consumers`, found by id or name. Raises `NotFound`."""

    def status(self) -> Status: ...

    def health(self) -> tuple[bool, str]:
        """Whether events flow, and why not."""

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        """Kept exchanges, as `DeliveryClient.recent` has it."""

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        """Which instance applies to such a request and why; plain JSON values, no `config`."""


def is_uuid(given: object) -> bool:
    """Whether it can be an entity's id."""
    try:
        return str(uuid.UUID(str(given))) == str(given).lower()
    except ValueError:
        return False


class NotFound(Exception):  # noqa: N818 - the names are those of Kong's errors
    """There is no such instance."""


class SchemaViolation(Exception):  # noqa: N818
    """An entity that cannot be: what is wrong, by field. Texts hold no secret."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        faults = list(_faults(fields))
        count = "schema violation" if len(faults) == 1 else f"{len(faults)} schema violations"
        super().__init__(f"{count} ({'; '.join(faults)})")


class UniqueViolation(Exception):  # noqa: N818
    """Another instance has this scope, or this name. `fields` are those that are the same in both."""

    def __init__(self, message: str, fields: Fields | None = None) -> None:
        self.fields = fields or {}
        super().__init__(message)

    @classmethod
    def of(cls, key: Key) -> UniqueViolation:
        return cls(unique_violation(key), key)


class ForeignKeyViolation(Exception):  # noqa: N818
    """What the instance is for is not there. Kong has two codes for that: for an id, and for a name."""

    def __init__(self, code: int, name: str, message: str, fields: Fields) -> None:
        self.code = code
        self.name = name
        self.fields = fields
        super().__init__(message)

    @classmethod
    def of(cls, field: str, by: str, value: str) -> ForeignKeyViolation:
        """`field` is `service`, `route` or `consumer`; `by` is `id` or the field that holds the name."""
        kind = f"{field}s"
        if by == "id":
            key = {"id": value}
            return cls(4, "foreign key violation", foreign_key_violation(key, kind), {field: key})
        fault = foreign_key_unresolved({by: value}, kind)
        message = f"foreign key unresolved ({field}.{by}: {fault})"
        return cls(13, "foreign keys unresolved", message, {field: {by: fault}})


class Unsupported(Exception):  # noqa: N818
    """An instance that cannot be changed so from here; the text says what to do instead."""


class NotKept(Exception):  # noqa: N818
    """A change cannot be written to the state file; the text says whether it is in force nevertheless."""


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

"""What is told of exchanges, as JSON. The OpenAPI document is made of these types.

Times are ISO 8601 in UTC with milliseconds; durations are milliseconds, sizes bytes. What is not known is null.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

type State = Literal["captured", "built", "stored", "sent", "retrying", "refused", "dropped", "not_captured"]
"""The last step of an exchange's life. `captured`, `built`, `stored` and `retrying` wait; the others are its end."""


class Step(TypedDict):
    """One step of an exchange's life: when, what, and in a few words where, why or with which answer."""

    at: str
    step: State
    detail: str


class Removed(TypedDict):
    """What was masked: `request.headers.cookie`, `request.body.card.number`; `by` is the parameter that says so."""

    where: str
    by: str


class Row(TypedDict):
    """An exchange in a list. `number` orders exchanges, `changed` the changes of all of them; both only grow.

    `user_from` and `company_from` say what identified them; `cause` why it was dropped, refused or not captured.
    """

    number: int
    changed: int
    id: str
    time: str
    method: str
    status: int | None
    host: str
    path: str
    route: str | None
    service: str | None
    instance: str | None
    user: str | None
    user_from: str | None
    company: str | None
    company_from: str | None
    ms: float | None
    kong_ms: int | None
    upstream_ms: int | None
    request_bytes: int | None
    response_bytes: int | None
    weight: int
    blocked_by: str | None
    error: str | None
    state: State
    cause: str | None


class Detail(Row):
    """An exchange in full. `event` is what is sent, null where there is none.

    `captured` is the same without any mask, null unless `moesif_recent_raw` keeps it.
    """

    life: list[Step]
    removed: list[Removed]
    event: dict[str, Any] | None
    captured: dict[str, Any] | None


class Listing(TypedDict):
    """Newest first. `next` is the `before` that goes on, null at the end; `changed` the `changed_after` that does.

    `seen` exchanges came since the start, of which `kept` are here.
    """

    exchanges: list[Row]
    next: int | None
    changed: int
    kept: int
    seen: int


class Share(TypedDict):
    """How many exchanges, weighed, have this value."""

    name: str
    count: int


class Route(TypedDict):
    """A route's exchanges: how many, weighed, how many of them failed (status 500 and above), and their times in ms."""

    route: str
    count: int
    errors: int
    p50: float | None
    p95: float | None
    p99: float | None


class Interval(TypedDict):
    """The exchanges that began in an interval: how many, weighed, how many failed, and what became of them so far."""

    time: str
    count: int
    errors: int
    waiting: int
    sent: int
    dropped: int


class Stats(TypedDict):
    """The kept exchanges that a filter lets through, added up. Counts are weighed by `weight`."""

    exchanges: int
    count: int
    errors: int
    seconds: int
    over_time: list[Interval]
    routes: list[Route]
    statuses: list[Share]
    states: list[Share]
    users: list[Share]
    companies: list[Share]

"""The JSON about exchanges. The OpenAPI document is made from these types.

Times are ISO 8601 in UTC with milliseconds, durations milliseconds, sizes bytes. Unknown values are null.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

type State = Literal["captured", "built", "stored", "sent", "retrying", "refused", "dropped", "not_captured"]
"""The last step of an exchange's life. `captured`, `built`, `stored` and `retrying` are waiting, the others final."""


class Step(TypedDict):
    """One step of an exchange's life: the time, the step, and in a few words where, why or with which response."""

    at: str
    step: State
    detail: str


class Removed(TypedDict):
    """A masked part, such as `request.headers.cookie` or `request.body.card.number`, and the parameter responsible."""

    where: str
    by: str


class Row(TypedDict):
    """An exchange in a list. `number` orders exchanges, `changed` orders the changes of all of them; both only grow.

    `user_from` and `company_from`: how these were identified. `cause`: why it was dropped, refused or not captured.
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
    """All about an exchange. `event` is the event as sent, null if there is none.

    `captured` is the event without any masks, null unless `moesif_recent_raw` keeps it.
    """

    life: list[Step]
    removed: list[Removed]
    event: dict[str, Any] | None
    captured: dict[str, Any] | None


class Listing(TypedDict):
    """Newest first. To continue, use `next` as `before` (null at the end), or `changed` as `changed_after`.

    `seen` is the number of exchanges since the start, `kept` those still stored.
    """

    exchanges: list[Row]
    next: int | None
    changed: int
    kept: int
    seen: int


class Share(TypedDict):
    """The weighted number of exchanges with this value."""

    name: str
    count: int


class Route(TypedDict):
    """A route's exchanges: weighted number, failures (status 500 and above), and percentiles of the time in ms."""

    route: str
    count: int
    errors: int
    p50: float | None
    p95: float | None
    p99: float | None


class Interval(TypedDict):
    """The exchanges that began in an interval: weighted number, number of failures, and states so far."""

    time: str
    count: int
    errors: int
    waiting: int
    sent: int
    dropped: int


class Stats(TypedDict):
    """Statistics of the kept exchanges that match a filter. Counts are weighted by `weight`."""

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

"""The proxy's notes on exchanges without an event, and the steps reported for events in delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.masking import mask_host, mask_method, mask_query
from mitmproxy_moesif.recent.api import State

SHOWN = 500
"""Characters of a path or name shown in a row; the event has all of it."""


class Keep(NamedTuple):
    """How many exchanges to keep, and whether to keep them unmasked too."""

    number: int = 0
    raw: bool = False


NO_EXCHANGES = Keep()


class Note(NamedTuple):
    """An exchange without an event. `path` has no query.

    `debug`: also log it.
    """

    id: str
    started: float
    ended: float | None
    method: str
    authority: str
    path: str
    status: int | None
    cause: str
    debug: bool = False


def note_of(instance: Instance, exchange: Exchange, cause: str) -> Note:
    method, authority, path = shown_line(instance, exchange.method, exchange.authority, exchange.target)
    return Note(
        exchange.transaction_id,
        exchange.started,
        exchange.ended,
        method,
        authority,
        path,
        exchange.status,
        cause,
        instance.settings.debug,
    )


def shown_line(instance: Instance, method: str, authority: str, target: bytes) -> tuple[str, str, str]:
    """Method, host, and path without query, masked; host and path are empty if the instance hides them."""
    host, path = "", ""
    if not instance.hides:
        masks = instance.policy.query_masks
        host = mask_host(authority[: 2 * SHOWN], masks)
        path = mask_query(text(target.partition(b"?")[0])[: 2 * SHOWN], masks)
    return shown_method(instance, method)[:SHOWN], host[:SHOWN], path[:SHOWN]


def shown_method(instance: Instance, method: str) -> str:
    """The masked method; in a malformed request it may be the whole first line."""
    if instance.hides:
        return method if method.isalpha() else ""
    return mask_method(method[: 2 * SHOWN], instance.policy.query_masks)


type Moved = Callable[[Iterable[str], State, str], None]
"""Called with a step of events: their transaction ids, the step, and in a few words where, why or how."""


def unnoticed(_ids: Iterable[str], _state: State, _detail: str) -> None:
    """Ignore the step."""

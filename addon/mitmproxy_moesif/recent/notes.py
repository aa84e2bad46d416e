"""What the proxy says of exchanges of which no event is made, and what is told of events on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.masking import mask_host, mask_query
from mitmproxy_moesif.recent.api import State

SHOWN = 500
"""Characters of a path or a name that a row shows; the event has all of it."""


class Keep(NamedTuple):
    """How many exchanges are kept, and whether with what masks remove."""

    number: int = 0
    raw: bool = False


NO_EXCHANGES = Keep()


class Note(NamedTuple):
    """An exchange of which no event is made. `path` is without its query.

    `debug`: the log tells of it, too.
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
    authority, path = shown_place(instance, exchange.authority, exchange.target)
    return Note(
        exchange.transaction_id,
        exchange.started,
        exchange.ended,
        exchange.method[:SHOWN],
        authority,
        path,
        exchange.status,
        cause,
        instance.settings.debug,
    )


def shown_place(instance: Instance | None, authority: str, target: bytes) -> tuple[str, str]:
    """Host, and path without its query, masked; nothing where the instance hides it."""
    authority, path = authority[: 2 * SHOWN], text(target.partition(b"?")[0])[: 2 * SHOWN]
    if instance is None:
        return authority[:SHOWN], path[:SHOWN]
    if instance.hides:
        return "", ""
    masks = instance.policy.query_masks
    return mask_host(authority, masks)[:SHOWN], mask_query(path, masks)[:SHOWN]


type Moved = Callable[[Iterable[str], State, str], None]
"""Is told what became of events: their transaction ids, the step, and in a few words where, why or how."""


def unnoticed(_ids: Iterable[str], _state: State, _detail: str) -> None:
    """Where nobody looks."""

"""What the proxy says of exchanges of which no event is made, and what is told of events on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.masking import mask_host, mask_method, mask_query
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
    """Method, host, and path without its query, masked; of host and path nothing where the instance hides it."""
    host, path = "", ""
    if not instance.hides:
        masks = instance.policy.query_masks
        host = mask_host(authority[: 2 * SHOWN], masks)
        path = mask_query(text(target.partition(b"?")[0])[: 2 * SHOWN], masks)
    return shown_method(instance, method)[:SHOWN], host[:SHOWN], path[:SHOWN]


def shown_method(instance: Instance, method: str) -> str:
    """Masked; of a malformed request it may be all of the first line."""
    if instance.hides:
        return method if method.isalpha() else ""
    return mask_method(method[: 2 * SHOWN], instance.policy.query_masks)


type Moved = Callable[[Iterable[str], State, str], None]
"""Is told what became of events: their transaction ids, the step, and in a few words where, why or how."""


def unnoticed(_ids: Iterable[str], _state: State, _detail: str) -> None:
    """Where nobody looks."""

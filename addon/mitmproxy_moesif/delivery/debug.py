"""Logs each exchange and its outcome when `debug` is on. Never logs a query or a body."""

from __future__ import annotations

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import NotSent
from mitmproxy_moesif.log import log
from mitmproxy_moesif.recent.notes import Note, note_of


def tell_built(instance: Instance, exchange: Exchange, facts: Attributes, made: bytes | NotSent) -> None:
    """Log an exchange that was captured."""
    if not instance.settings.debug:
        return
    what = shown(note_of(instance, exchange, ""))
    if (user := facts.caller.user_id) is not None and not instance.hides:
        what += f", user {user!r:.200}"
    if isinstance(made, NotSent):
        log.info("moesif: no event of %s: %s: %s", exchange.transaction_id, what, made.value)
    else:
        log.info("moesif: queued event %s, %d bytes: %s", exchange.transaction_id, len(made), what)


def tell_noted(note: Note) -> None:
    """Log an exchange that was not captured."""
    if note.debug:
        log.info("moesif: no event of %s: %s: %s", note.id, shown(note), note.cause)


def shown(note: Note) -> str:
    """Method, host, path and status. Values from the client are quoted, so that the log entry stays on one line."""
    return f"{note.method!r} {note.authority + note.path!r}, status {note.status}"

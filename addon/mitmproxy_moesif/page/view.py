"""An exchange described in words: the row of the list, explanations, and the parts of its duration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from mitmproxy_moesif.recent.api import Detail, Row

CAUSES: Final[Mapping[str, str]] = {
    "sampled_out": "sampling left it out: the sample rate for its caller or the rules decided so",
    "skipped": "the hook skip left it out",
    "skip": "the filter moesif_skip left it out",
    "no_instance": "no instance of the plugin applies to such a request",
    "refused_head": "its head is ambiguous, so it was refused",
    "kong_unknown": "Kong's configuration was not known yet",
    "mask_failed": "the hook mask failed, and nothing is sent unmasked",
    "queue_full": "too many events were waiting (moesif_event_queue_size)",
    "queue_bytes": "too many bytes of events were waiting (moesif_queue_max_bytes)",
    "spool_full": "the spool was full (moesif_spool_max_bytes)",
    "too_old": "it is older than 30 days, which Moesif does not accept",
    "internal_error": "internal error: see the log",
}
STATES: Final[Mapping[str, str]] = {
    "captured": "It was captured, and its event is being built.",
    "built": "Its event is built, and is about to be stored.",
    "stored": "Its event waits to be sent.",
    "retrying": "Its event could not be sent yet and will be retried",
    "sent": "Its event was sent",
    "refused": "The receiver refused its event",
    "dropped": "Its event was dropped",
    "not_captured": "It was not captured",
}


class Share(NamedTuple):
    """A part of the duration: where, milliseconds, and percent of the total."""

    name: str
    ms: float
    percent: float


def list_row(row: Row) -> dict[str, Any]:
    """A row for the list: texts, and numbers for sorting."""
    return {
        "id": row["id"],
        "time": row["time"][11:23],
        "method": row["method"],
        "status": row["status"],
        "path": f"{row['host']}{row['path']}",
        "route": row["route"] or "",
        "user": row["user"] or "",
        "company": row["company"] or "",
        "ms": row["ms"],
        "size": row["response_bytes"],
        "state": f"{row['state']}: {row['cause']}" if row["cause"] else row["state"],
    }


def why(detail: Detail) -> list[str]:
    """Sentences about the caller and how it was identified, what applied, and the state of the event."""
    return [*_who(detail), *_what_applied(detail), *_masks(detail), *_end(detail)]


def _who(detail: Detail) -> Iterator[str]:
    for kind, found, source in (
        ("user", detail["user"], detail["user_from"]),
        ("company", detail["company"], detail["company_from"]),
    ):
        if found is not None:
            yield f"The {kind} is {found}, as {source} says." if source else f"The {kind} is {found}."
        elif detail["event"] is not None:
            yield f"Nothing identified a {kind}."


def _what_applied(detail: Detail) -> Iterator[str]:
    instance = detail["instance"]
    if instance == "options":
        yield "The proxy's options apply."
    elif instance is not None:
        yield f"The instance {instance} of Kong's configuration applies."
    if detail["route"] is not None:
        of_service = f" of the service {detail['service']}" if detail["service"] else ""
        yield f"Kong's route is {detail['route']}{of_service}."
    if detail["blocked_by"] is not None:
        yield f"The rule {detail['blocked_by']} blocked it."
    if detail["error"] is not None:
        yield f"The exchange ended with an error: {detail['error']}."
    if detail["weight"] > 1:
        yield f"It was sampled and stands for {detail['weight']} exchanges (weight)."


def _masks(detail: Detail) -> Iterator[str]:
    by: dict[str, list[str]] = {}
    for removed in detail["removed"]:
        by.setdefault(removed["by"], []).append(removed["where"])
    for parameter, places in by.items():
        yield f"{parameter} removed {', '.join(places)}."


def _end(detail: Detail) -> Iterator[str]:
    state, (*_, last) = detail["state"], detail["life"]
    sentence = STATES[state]
    if not sentence.endswith("."):
        reason = CAUSES.get(last["detail"], last["detail"])
        sentence += f": {reason}." if reason else "."
    yield sentence


def timing(row: Row) -> list[Share]:
    """The upstream's part, Kong's, and the rest; only the total if Kong reports neither.

    Empty if the duration is unknown.
    """
    total = row["ms"]
    if not total:
        return []
    upstream = min(row["upstream_ms"] or 0, total)
    kong = min(row["kong_ms"] or 0, total - upstream)
    rest = "in all" if row["upstream_ms"] is None and row["kong_ms"] is None else "network and the rest"
    parts = (("upstream", upstream), ("Kong", kong), (rest, total - upstream - kong))
    return [Share(name, round(ms, 1), round(100 * ms / total, 1)) for name, ms in parts if ms > 0]


def removed_from(detail: Detail, side: str, part: str) -> dict[str, str]:
    """The parts removed from the headers or the body of a side, with the parameter responsible for each."""
    prefix = f"{side}.{part}"
    return {
        removed["where"].removeprefix(prefix).removeprefix("."): removed["by"]
        for removed in detail["removed"]
        if removed["where"] == prefix or removed["where"].startswith(f"{prefix}.")
    }

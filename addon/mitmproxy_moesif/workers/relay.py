"""The Admin API of all workers as one: what is read is added up or asked of one of them, a change goes to all.

A change is tried on one worker first, so that what is refused changes nothing anywhere. A worker that is started again
gets the changes made so far before it counts as ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import orjson

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.metrics import exposition
from mitmproxy_moesif.admin.source import Destination, SpoolStatus, Status
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.log import log
from mitmproxy_moesif.workers.control import Worker
from mitmproxy_moesif.workers.messages import Answer, Request

JSON_TYPE = "application/json; charset=utf-8"
NOBODY = "no worker is ready"

# Of several workers' states, the one that an operator has to know of.
WORST_STATES = ("unauthorized", "down", "failing", "on", "up", "off")


class Relay:
    """Answers for `workers`; `reading` adds up their counts. To be used in the supervisor's event loop."""

    def __init__(self, workers: Sequence[Worker], reading: Callable[[], Reading]) -> None:
        self._workers = workers
        self._reading = reading
        self._began = time.monotonic()
        self._changes: list[Request] = []
        self._changing = asyncio.Lock()

    async def answer(self, request: Request) -> Answer:
        if not request.is_change:
            match request.path.partition("?")[0].rstrip("/"):
                case "/ping":
                    return Answer(200, (("Content-Type", "text/plain; charset=utf-8"),), b"PONG")
                case "/health":
                    return await self._health()
                case "/status":
                    return as_json(200, await self._status(request))
                case "/metrics":
                    status = await self._status(Request("GET", "/status"))
                    text, kind = exposition(cast(Status, status), request.accept)
                    return Answer(200, (("Content-Type", kind),), text)
            return await self._one(request)
        return await self._change(request)

    async def catch_up(self, worker: Worker) -> None:
        """Make the changes that were made before this process was started."""
        async with self._changing:
            for change in self._changes:
                answer = await worker.ask(change)
                # 404 and 409: it has read them from the file that keeps them.
                if answer is None or (answer.status >= 400 and answer.status not in (404, 409)):
                    say_differs(worker, change, answer)
            if worker.process is not None:
                worker.ready.set()

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.ready.is_set()]

    async def _one(self, request: Request) -> Answer:
        """The answer of the first that gives one."""
        for worker in self._ready():
            if (answer := await worker.ask(request)) is not None:
                return answer
        return as_json(503, {"message": NOBODY})

    async def _all(self, request: Request) -> list[Answer]:
        answers = await asyncio.gather(*(worker.ask(request) for worker in self._ready()))
        return [answer for answer in answers if answer is not None]

    async def _health(self) -> Answer:
        """Well while a worker serves, and events flow in all that do."""
        answers = await self._all(Request("GET", "/health"))
        if not answers:
            return as_json(503, {"status": "unhealthy", "reason": NOBODY})
        return max(answers, key=lambda answer: answer.status)

    async def _status(self, request: Request) -> dict[str, Any]:
        answers = await self._all(request)
        told = [orjson.loads(answer.body) for answer in answers if answer.status == 200]
        return {
            **together(told, self._reading()),
            "version": __version__,
            "uptime": round(time.monotonic() - self._began, 3),
            "workers": {"ready": len(self._ready()), "wanted": len(self._workers)},
        }

    async def _change(self, change: Request) -> Answer:
        async with self._changing:
            ready = self._ready()
            if not ready:
                return as_json(503, {"message": NOBODY})
            first, *others = ready
            answer = await first.ask(change)
            if answer is None:
                return as_json(503, {"message": "a worker ended, or did not answer in time; nothing may have changed"})
            if answer.is_refusal:
                return answer
            self._keep(change)
            for worker, other in zip(
                others, await asyncio.gather(*(worker.ask(change) for worker in others)), strict=True
            ):
                if other is None or other.status != answer.status:
                    say_differs(worker, change, other)
            return answer

    def _keep(self, change: Request) -> None:
        """The same PATCH again makes an earlier one needless, so that switching to and fro does not pile up."""
        if change.method == "PATCH" and change in self._changes:
            self._changes.remove(change)
        self._changes.append(change)


def say_differs(worker: Worker, change: Request, answer: Answer | None) -> None:
    outcome = "did not answer" if answer is None else f"answered {answer.status}"
    path = change.path.partition("?")[0]
    log.error("moesif-proxy: worker %d differs now: to %s %s it %s", worker.number, change.method, path, outcome)


def as_json(status: int, content: Mapping[str, Any]) -> Answer:
    return Answer(status, (("Content-Type", JSON_TYPE),), orjson.dumps(content) + b"\n")


def together(told: Sequence[Mapping[str, Any]], reading: Reading) -> dict[str, Any]:
    """The states of several workers (`Status`) as that of one. What only one of them can tell is the first's."""
    ages = [age for one in told if (age := one.get("oldest_waiting")) is not None]
    status = {
        **(told[0] if told else {}),
        "captured": reading.captured,
        "recovered": reading.recovered,
        "delivered": reading.delivered,
        "waiting": {"memory": reading.waiting_in_memory, "disk": reading.waiting_on_disk},
        "dropped": reading.dropped,
        "skipped": reading.skipped,
        "faults": reading.faults,
        "oldest_waiting": max(ages, default=None),
        "destinations": destinations([one["destinations"] for one in told if "destinations" in one]),
    }
    if spools := [one["spool"] for one in told if "spool" in one]:
        status["spool"] = spool(spools)
    return status


def destinations(told: Sequence[Mapping[str, Destination]]) -> dict[str, Destination]:
    """Of each, the state of the worker that has most trouble with it."""
    found: dict[str, Destination] = {}
    for states in told:
        for name, state in states.items():
            if name not in found or badness(state.get("state")) < badness(found[name].get("state")):
                found[name] = state
    return found


def spool(told: Sequence[SpoolStatus]) -> SpoolStatus:
    worst = SpoolStatus(**min(told, key=lambda one: badness(one.get("state"))))
    if any("bytes" in one for one in told):
        worst["bytes"] = sum(one.get("bytes", 0) for one in told)
        worst["max_bytes"] = sum(one.get("max_bytes", 0) for one in told)
    return worst


def badness(state: str | None) -> int:
    """0 is worst."""
    return WORST_STATES.index(state) if state in WORST_STATES else len(WORST_STATES)

"""The Admin API of all workers as one: reads are merged or sent to one worker, changes go to all.

All changes form one document with a version number, which the supervisor owns: no worker reads or writes its file. A
change is first tried on one worker. The resulting document is saved, and only then sent to all workers; if it cannot be
saved, the first worker gets the previous document back. A starting worker gets the newest document before it captures
anything. One lock orders changes, reloads, and workers that become ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import orjson

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.metrics import exposition
from mitmproxy_moesif.admin.source import Destination, NotKept, SpoolStatus, Status, UnsentStatus, receivers_of
from mitmproxy_moesif.admin.state import Document, StateError, StateFile
from mitmproxy_moesif.capture import traffic
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.log import log
from mitmproxy_moesif.workers import exchanges
from mitmproxy_moesif.workers.control import Worker
from mitmproxy_moesif.workers.messages import Answer, Request

NOBODY = "no worker is ready"
NO_ANSWER = "a worker ended, or did not answer in time: nothing was changed"

# The states of a destination, worst first: an operator needs to see the worst one of all workers.
WORST_STATES = ("unauthorized", "down", "failing", "on", "up", "unknown", "off")


class Relay:
    """Answers for `workers`; `reading` and `traffic` return their total counts. Used on the supervisor's event loop."""

    def __init__(
        self, workers: Sequence[Worker], reading: Callable[[], Reading], traffic: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._workers = workers
        self._reading = reading
        self._traffic = traffic
        self._began = time.monotonic()
        self._file: StateFile | None = None
        self._document: Document = {}
        self._version = 1
        self.reloads = 0
        self._changing = asyncio.Lock()

    async def answer(self, request: Request) -> Answer:
        if not request.is_change:
            path = request.path.partition("?")[0].rstrip("/")
            if exchanges.is_about_exchanges(path):
                return await exchanges.answer(request, self._all)
            match path:
                case "/ping":
                    return Answer(200, (("Content-Type", "text/plain; charset=utf-8"),), b"PONG")
                case "/health":
                    return await self._health()
                case "/status":
                    return Answer.of(200, await self._status(request))
                case "/metrics":
                    status = await self._status(Request("GET", "/status"))
                    text, kind = exposition(cast(Status, status), request.accept)
                    return Answer(200, (("Content-Type", kind),), text)
            return await self._one(request)
        return await self._change(request)

    def greet(self, worker: Worker, state: str | None) -> None:
        """Send the newest document to a starting worker. For the first worker, it is read from the file `state`."""
        try:
            if self._file is None:
                file = StateFile(state)
                self._document, self._file = file.read(), file
        except StateError as error:
            worker.order("take", fault=str(error))
        else:
            worker.order("take", **self._newest())

    async def catch_up(self, worker: Worker) -> None:
        """A worker has started: bring it up to date with changes made meanwhile, then mark it as ready."""
        process = worker.process
        async with self._changing:
            if worker.reloads != self.reloads:
                await self._reload(worker)
            if self._file is not None and worker.version != self._version:
                await self._hand(worker)
            if process is not None and worker.process is process:
                worker.ready.set()

    async def reload(self) -> None:
        """Make all workers read their options again."""
        async with self._changing:
            self.reloads += 1
            await asyncio.gather(*(self._reload(worker) for worker in self._ready()))

    async def _reload(self, worker: Worker) -> None:
        worker.reloads = self.reloads
        await worker.demand("reload")

    async def _hand(self, worker: Worker) -> None:
        """Send the newest document. A worker that rejects it is restarted and gets it at startup."""
        said = await worker.demand("take", **self._newest())
        if said is not None and "fault" in said:
            log.error("moesif-proxy: worker %d rejects the changes: %s", worker.number, said["fault"])
            worker.order("end")

    def _newest(self) -> dict[str, Any]:
        return {"version": self._version, "document": self._document}

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.ready.is_set()]

    def _current(self) -> list[Worker]:
        """The ready workers that have the newest document in force."""
        return [worker for worker in self._ready() if self._file is None or worker.version == self._version]

    async def _one(self, request: Request) -> Answer:
        """The response of the first worker that answers."""
        for worker in self._current():
            if (answer := await worker.ask(request)) is not None:
                return answer
        return Answer.of(503, {"message": NOBODY})

    async def _all(self, request: Request) -> list[Answer]:
        answers = await asyncio.gather(*(worker.ask(request) for worker in self._ready()))
        return [answer for answer in answers if answer is not None]

    async def _health(self) -> Answer:
        """Healthy if at least one worker serves and events flow in all that do."""
        answers = await self._all(Request("GET", "/health"))
        if not answers:
            return Answer.of(503, {"status": "unhealthy", "reason": NOBODY})
        return max(answers, key=lambda answer: answer.status)

    async def _status(self, request: Request) -> dict[str, Any]:
        answers = await self._all(request)
        told = [orjson.loads(answer.body) for answer in answers if answer.status == 200]
        return {
            **together(told, self._reading()),
            "traffic": self._traffic(),
            "version": __version__,
            "uptime": round(time.monotonic() - self._began, 3),
            "workers": {
                "ready": len(self._ready()),
                "wanted": len(self._workers),
                "restarts": sum(worker.restarts for worker in self._workers),
            },
        }

    async def _change(self, change: Request) -> Answer:
        async with self._changing:
            if not (current := self._current()):
                return Answer.of(503, {"message": NOBODY})
            trial = current[0]
            said = await trial.demand("answer", request=change.to_json())
            answer = Answer.from_json(said["answer"]) if said is not None else Answer.of(503, {"message": NO_ANSWER})
            if said is not None and said["document"] == self._document:
                return answer
            if said is not None and answer.status < 400:
                answer = await self._keep(said["document"], trial) or answer
            else:
                trial.version = 0
            await asyncio.gather(*(self._hand(worker) for worker in self._ready() if worker.version != self._version))
            return answer

    async def _keep(self, document: Document, trial: Worker) -> Answer | None:
        """Save a document that `trial` has in force and make it the newest. Returns an error response on failure."""
        assert self._file is not None
        try:
            await asyncio.to_thread(self._file.write, document)
        except NotKept as error:
            trial.version = 0
            return Answer.of(500, {"message": str(error)})
        self._document = document
        self._version += 1
        trial.version = self._version
        return None


def together(told: Sequence[Mapping[str, Any]], reading: Reading) -> dict[str, Any]:
    """Merge the `Status` of several workers. Values that cannot be merged are those of the first one."""
    ages = [age for one in told if (age := one.get("oldest_waiting")) is not None]
    status = {
        **(told[0] if told else {}),
        "captured": reading.captured,
        "recovered": reading.recovered,
        "delivered": reading.delivered,
        "waiting": {"memory": reading.waiting_in_memory, "disk": reading.waiting_on_disk},
        "dropped": reading.dropped,
        "excluded": reading.excluded,
        "faults": reading.faults,
        "oldest_waiting": max(ages, default=None),
        "receivers": receivers_of(reading, (name for one in told for name in one.get("receivers", ()))),
        "unsent": unsent([one["unsent"] for one in told if "unsent" in one]),
        "destinations": destinations([one["destinations"] for one in told if "destinations" in one]),
    }
    if engines := [one["engines"] for one in told if "engines" in one]:
        status["engines"] = traffic.together(engines)
    if spools := [one["spool"] for one in told if "spool" in one]:
        status["spool"] = spool(spools)
    return status


def destinations(told: Sequence[Mapping[str, Destination]]) -> dict[str, Destination]:
    """For each destination, the worst state that any worker reports."""
    found: dict[str, Destination] = {}
    for states in told:
        for name, state in states.items():
            if name not in found or badness(state.get("state")) < badness(found[name].get("state")):
                found[name] = state
    return found


def unsent(told: Sequence[Mapping[str, UnsentStatus]]) -> dict[str, UnsentStatus]:
    """For each destination, the unsent events of all workers, and the earliest `since`."""
    found: dict[str, UnsentStatus] = {}
    for name, one in (item for states in told for item in states.items()):
        other = found.get(name, UnsentStatus(state=one["state"], events=0, since=one["since"]))
        found[name] = UnsentStatus(
            state=one["state"], events=one["events"] + other["events"], since=min(one["since"], other["since"])
        )
    return found


def spool(told: Sequence[SpoolStatus]) -> SpoolStatus:
    worst = SpoolStatus(**min(told, key=lambda one: badness(one.get("state"))))
    if any("bytes" in one for one in told):
        worst["bytes"] = sum(one.get("bytes", 0) for one in told)
        worst["max_bytes"] = sum(one.get("max_bytes", 0) for one in told)
    return worst


def badness(state: str | None) -> int:
    """The rank of a state; 0 is the worst."""
    return WORST_STATES.index(state) if state in WORST_STATES else len(WORST_STATES)

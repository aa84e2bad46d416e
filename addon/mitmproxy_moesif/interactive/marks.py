"""Comments and marks of flows: who it was, and what became of the event.

What the delivery process knows of the newest exchanges is asked for twice a second, as long as somebody may look.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson
from mitmproxy import ctx, http
from mitmproxy.hooks import UpdateHook

from mitmproxy_moesif.lifecycle import Lifecycle
from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.recent.api import Row

ASK_SECONDS = 0.5
AT_ONCE = 500
KEPT = 10_000
DROPPED, BLOCKED = ":warning:", ":no_entry:"


class Marks:
    """Runs on the event loop from `start` to `stop`. `rows` are the newest, by the flows' ids."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._changed = 0
        self._task: asyncio.Task[None] | None = None
        self.rows: OrderedDict[str, Row] = OrderedDict()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ASK_SECONDS)
            try:
                await self._ask()
            except Exception as error:  # noqa: BLE001 - a comment less
                log.warning("moesif: comments of flows: %s", describe(error))

    async def _ask(self) -> None:
        runtime = self._life.runtime
        if runtime is None:
            return
        answer = await asyncio.wrap_future(runtime.delivery.recent({"changed_after": self._changed, "limit": AT_ONCE}))
        if answer is None:
            return
        listing = orjson.loads(answer)
        self._changed = max([self._changed, *(row["changed"] for row in listing["exchanges"])])
        self._take(listing["exchanges"])

    def _take(self, rows: Sequence[Row]) -> None:
        view: Any = ctx.master.addons.get("view")
        changed = []
        for row in rows:
            self.rows[row["id"]] = row
            self.rows.move_to_end(row["id"])
            flow = view.get_by_id(row["id"])
            if isinstance(flow, http.HTTPFlow):
                flow.comment, flow.marked = comment(row), mark(row) or flow.marked
                changed.append(flow)
        while len(self.rows) > KEPT:
            self.rows.popitem(last=False)
        if changed:
            ctx.master.addons.trigger(UpdateHook(changed))


def comment(row: Row) -> str:
    """In one line: user, company, route, delivery state."""
    told = (("user", row["user"]), ("company", row["company"]), ("route", row["route"]))
    parts = [f"{name} {value}" for name, value in told if value is not None]
    state = row["state"].replace("_", " ")
    return " · ".join([*parts, f"{state} ({row['cause']})" if row["cause"] else state])


def mark(row: Row) -> str:
    """mitmproxy's name of an emoji; empty where there is nothing to notice."""
    if row["blocked_by"] is not None:
        return BLOCKED
    return DROPPED if row["state"] in ("dropped", "refused", "not_captured") else ""

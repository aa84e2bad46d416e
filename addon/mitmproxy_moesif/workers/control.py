"""The supervisor's view of a worker: its process (which may be replaced), orders to it, and messages from it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.delivery.ledger import NOTHING, Reading
from mitmproxy_moesif.workers.messages import Answer, Request

READ_SECONDS, CHANGE_SECONDS = 5.0, 15.0
"""Seconds that a worker may take to answer. Changes get more, because they wait for its event loop."""

LONGEST_LINE = 2**25
"""Maximum bytes of a line; a response about thousands of plugins is one line."""


class Worker:
    """A slot for a worker process, and the state that its current process has reported.

    `version` is the number of the document in force there; `reloads` is the supervisor's reload count when the process
    last read its options; `restarts` counts the processes that replaced a dead one; `served` is whether the last one
    that ended had been ready, and `told_all` whether `reading` has its final counts. `group` is its process
    group. `heard` gets all messages that this class does not handle. `worker.py` describes the protocol.
    """

    def __init__(self, number: int, heard: Callable[[Worker, dict[str, Any]], None]) -> None:
        self.number = number
        self.version = 0
        self.reloads = 0
        self.restarts = 0
        self.reading = NOTHING
        self.traffic: Mapping[str, Any] = {}
        self.served = False
        self.told_all = False
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.group: int | None = None
        self._heard = heard
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any] | None]] = {}

    async def run(self, arguments: Sequence[str], kept: Mapping[str, str], *, ending: Callable[[], bool]) -> int:
        """Start a process and wait until it ends. Returns its exit code, negative for a signal.

        `kept` maps file names to content in base64 that the process uses instead of reading these files.
        """
        self.told_all = False
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as pipe:
            try:
                await self._start(theirs)
            finally:
                os.close(theirs)
            self.order("start", arguments=list(arguments), kept=kept, first=self.number == 1)
            if ending():
                self.order("end")
            await self._listen(pipe)
        assert self.process is not None
        code = await self.process.wait()
        self.process = None
        self.version = 0
        self.served = self.ready.is_set()
        self.ready.clear()
        return code

    async def _start(self, pipe: int) -> None:
        # The arguments are sent as an order: they may contain secrets, and anyone can read command lines.
        command = [sys.executable, "-m", "mitmproxy_moesif.workers.worker", str(pipe)]
        # In its own session: Ctrl-C reaches only the supervisor, which then stops the workers.
        with interrupts.held(signal.SIGHUP):
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, pass_fds=(pipe,), start_new_session=True
            )
        self.group = self.process.pid

    async def _listen(self, pipe: Any) -> None:
        """Read messages until the process closes its end of the pipe, which happens when it ends."""
        reader = asyncio.StreamReader(LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async for line in reader:
                with suppress(ValueError, TypeError, KeyError):  # a line cut by kill -9
                    self._hear(json.loads(line))
        finally:
            transport.close()
            self._answer_none()

    def _hear(self, said: dict[str, Any]) -> None:
        self.version = said.get("version", self.version)
        if "reading" in said:
            self.reading, self.traffic = Reading.of(said["reading"]), said["traffic"] or {}
            self.told_all = said["last"]
        elif "to" in said:
            asked = self._asked.pop(said["to"], None)
            if asked is not None and not asked.done():
                asked.set_result(said)
        else:
            self._heard(self, said)

    def _answer_none(self) -> None:
        asked, self._asked = self._asked, {}
        for each in asked.values():
            if not each.done():
                each.set_result(None)

    async def ask(self, request: Request) -> Answer | None:
        """The worker's response; None if it ended first or timed out. It reports its counts before it responds."""
        said = await self.demand("answer", READ_SECONDS, request=request.to_json())
        return Answer.from_json(said["answer"]) if said is not None else None

    async def demand(self, what: str, seconds: float = CHANGE_SECONDS, **more: Any) -> dict[str, Any] | None:
        """Send an order and wait for the reply; None if the worker ended first or timed out."""
        number = next(self._numbers)
        said: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = said
        if not self.order(what, to=number, **more):
            said.set_result(None)
        try:
            return await asyncio.wait_for(said, seconds)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    def order(self, what: str, **more: Any) -> bool:
        if self.process is None or self.process.stdin is None or self.process.returncode is not None:
            return False
        with suppress(OSError, RuntimeError):
            self.process.stdin.write(json.dumps({"order": what, **more}).encode() + b"\n")
            return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()

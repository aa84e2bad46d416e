"""The clients: exchanges at a steady rate for as long as the soak lasts, whatever happens to the proxy."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable
from typing import Self

from tests.soak.bodies import MASKED, OVERSIZE, OVERSIZE_BODY, PLAIN, POISON, a_body, body_pool
from tests.support.client import Client, RawResponse
from tests.support.traffic import ID_HEADER

CLIENTS = 6
EXCHANGES_PER_CONNECTION = 200
HEADERS = (("Content-Type", "application/json"), ("X-Api-Key", MASKED))


class Load:
    """`seen` are the transaction ids with when their answer was read (monotonic); `port` tells where the proxy is.

    `breaks` are the times of connections that ended in the middle, `unnamed` of answers without an id, `odd` tells of
    answers that the upstream did not give. `latencies` in seconds; `spoiled` are those whose event has to be refused.
    """

    def __init__(self, seed: int, rate: float, port: Callable[[], int | None]) -> None:
        self.seen: dict[str, float] = {}
        self.breaks: list[float] = []
        self.unnamed: list[float] = []
        self.odd: list[str] = []
        self.spoiled: set[str] = set()
        self.latencies = array("f")
        self._seed = seed
        self._interval = CLIENTS / rate
        self._port = port
        self._bodies = body_pool(seed)
        self._oversize = a_body(random.Random(seed), OVERSIZE_BODY)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        dice = random.Random(f"client {number} {self._seed}")
        self._ending.wait(self._interval * number / CLIENTS)
        while not self._ending.is_set():
            port = self._port()
            if port is None:
                self._ending.wait(0.02)
                continue
            try:
                with Client(port) as client:
                    self._converse(client, dice)
            except OSError:
                self.breaks.append(time.monotonic())
                self._ending.wait(0.05)

    def _converse(self, client: Client, dice: random.Random) -> None:
        due = time.monotonic()
        for _ in range(EXCHANGES_PER_CONNECTION):
            if self._ending.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + self._interval, time.monotonic() - 1)
            method, target, body, expected = self._draw(dice)
            began = time.monotonic()
            answer = client.exchange(method, f"{target}?token={MASKED}", HEADERS, body)
            now = time.monotonic()
            if answer is None or answer.cut:
                raise ConnectionError("no whole answer")
            self._keep(answer, now, expected, spoiled=target in (POISON, OVERSIZE))
            self.latencies.append(now - began)

    def _keep(self, answer: RawResponse, now: float, expected: bytes, *, spoiled: bool) -> None:
        if answer.status != 200 or answer.body != expected:
            self.odd.append(f"status {answer.status}, {len(answer.body)} of {len(expected)} bytes")
        if (one := answer.get(ID_HEADER)) is not None:
            self.seen[one] = now
            if spoiled:
                self.spoiled.add(one)
        else:
            self.unnamed.append(now)

    def _draw(self, dice: random.Random) -> tuple[str, str, bytes | None, bytes]:
        """Method, path, request body, and the body of the answer."""
        kind, number = dice.random(), dice.randrange(len(self._bodies))
        if kind < 1 / 3000:
            return "POST", OVERSIZE, self._oversize, self._bodies[0]
        if kind < 1 / 500:
            return "POST", POISON, self._bodies[number], self._bodies[0]
        body = dice.choice(self._bodies) if kind < 0.5 else None
        return "POST" if body else "GET", f"{PLAIN}{number}", body, self._bodies[number]

"""The thread that looks through the kept exchanges for who asks: not started before somebody does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.recent.store import RecentExchanges


class Reader:
    """Answers are said one after another: `("recent", number, JSON)`, None in place of it where there is none."""

    def __init__(self, say: Callable[[tuple[Any, ...]], None]) -> None:
        self._say = say
        self._asked: SimpleQueue[tuple[RecentExchanges, int, Mapping[str, Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, recent: RecentExchanges, number: int, query: Mapping[str, Any]) -> None:
        self._asked.put((recent, number, query))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="moesif-recent", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            recent, number, query = self._asked.get()
            try:
                answer: bytes | None = recent.answer(query)
            except Exception as error:  # noqa: BLE001 - who asked waits for an answer
                log.error("moesif: a fault in reading recent exchanges: %s", describe(error))
                answer = None
            self._say(("recent", number, answer))

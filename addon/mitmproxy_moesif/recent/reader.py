"""The thread that answers queries for recent exchanges. It is started with the first query."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.recent.asked import ANSWER_SECONDS, TooLongError
from mitmproxy_moesif.recent.store import RecentExchanges


class Reader:
    """Answers queries one at a time with `("recent", number, JSON)`; None in place of JSON if it failed.

    Expired queries are skipped. So clients with many queries use no more than one thread, and the backlog ends as soon
    as they stop.
    """

    def __init__(self, say: Callable[[tuple[Any, ...]], None]) -> None:
        self._say = say
        self._asked: SimpleQueue[tuple[float, RecentExchanges, int, Mapping[str, Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, recent: RecentExchanges, number: int, query: Mapping[str, Any]) -> None:
        self._asked.put((time.monotonic(), recent, number, query))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="moesif-recent", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            asked, recent, number, query = self._asked.get()
            answer: bytes | None = None
            try:
                if time.monotonic() - asked < ANSWER_SECONDS:
                    answer = recent.answer(query)
            except TooLongError:
                pass
            except Exception as error:  # noqa: BLE001 - the client is waiting for an answer
                log.error("moesif: a fault in reading recent exchanges: %s", describe(error))
            self._say(("recent", number, answer))

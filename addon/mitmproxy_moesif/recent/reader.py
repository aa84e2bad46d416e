"""The thread that looks through the kept exchanges for who asks: not started before somebody does."""

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
    """Answers are said one after another: `("recent", number, JSON)`, None in place of it where there is none.

    What nobody waits for any more is not looked for: so those who ask much cost no more than one thread, and are
    forgotten as soon as they stop.
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
            except Exception as error:  # noqa: BLE001 - who asked waits for an answer
                log.error("moesif: a fault in reading recent exchanges: %s", describe(error))
            self._say(("recent", number, answer))

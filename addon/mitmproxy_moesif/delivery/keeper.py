"""Keeps a `DeliveryServer` running: in the delivery process, or in a thread if no process can run."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import TYPE_CHECKING, Protocol

from mitmproxy_moesif.backoff import Backoff
from mitmproxy_moesif.config.text import reason_of
from mitmproxy_moesif.delivery.child import ChildProcess, unavailable
from mitmproxy_moesif.delivery.protocol import Message, packed
from mitmproxy_moesif.log import RateLimitedLog, describe, log

if TYPE_CHECKING:
    from mitmproxy_moesif.delivery.thread import DeliveryThread

WATCH_INTERVAL = 5.0
"""Seconds between two checks whether the delivery process responds."""

PATIENCE = 3
"""Checks in a row without a response after which it is killed."""

LIVES = 5
"""After this many processes in a row have ended without any report, a thread takes their place."""

LONGEST_PAUSE = 60.0


class Client(Protocol):
    """The user of the server."""

    def started(self) -> None:
        """A server has started and must be sent everything."""

    def died(self, *, reported: bool) -> None:
        """The server has ended, with or without a report. A new one will be started."""

    def heard(self, message: Message) -> None:
        """The server sent a message. Called in another thread."""

    def ended(self) -> None:
        """The server has just ended. Called in another thread."""

    def fault(self, kind: str) -> None:
        """Count an internal fault."""


class Keeper:
    """For the event loop's thread. `apart`: use a process, if the platform allows one."""

    def __init__(self, client: Client, *, apart: bool) -> None:
        self._client = client
        self._apart = apart
        self._fell_back = False
        self._stopped = False
        self._limited = RateLimitedLog()
        self._backoff = Backoff(0.2, LONGEST_PAUSE)
        self._deaths = 0
        self._unanswered = 0
        self._heard = False
        self._reported = False
        self.server: ChildProcess | DeliveryThread | None = None

    @property
    def trouble(self) -> str | None:
        """The problem that an operator must look at, in one line. From any thread."""
        if self._fell_back:
            return "no delivery process stays alive here: events are built in a thread of the proxy"
        if self._unanswered > 1 and not self._heard:
            return "the delivery process does not answer"
        return "the delivery process ends as soon as it is started" if self._deaths > 1 else None

    @property
    def last_ended_early(self) -> bool:
        """Whether the previous server ended without any report."""
        return self._deaths > 0

    def start(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        if self._apart and (reason := unavailable()) is not None:
            log.info("moesif: events are built in a thread of the proxy: %s", reason)
            self._apart = False
        self._spawn()
        if self._apart:
            loop.call_later(WATCH_INTERVAL, self._watch)

    def stop(self) -> None:
        """The server was told to end: do not replace it."""
        self._stopped = True

    def send(self, *message: object) -> None:
        """Does nothing while there is no server: the next one is sent everything when it starts."""
        self.send_packed(packed(message))

    def send_packed(self, data: bytes) -> None:
        if self.server is not None:
            self.server.send(data)

    def _spawn(self) -> None:
        if self._stopped:
            return
        try:
            self.server = self._start()
        except (OSError, RuntimeError) as error:  # the latter where no thread can be started
            self._limited.error("start", "moesif: the delivery process cannot be started: %s", reason_of(error))
            self._try_again(reported=False)
            return
        self._heard = self._reported = False
        self._unanswered = 0
        self._client.started()

    def _start(self) -> ChildProcess | DeliveryThread:
        if self._apart:
            return ChildProcess(self._hear, self._ended, self._failed, self._loop)
        # Imported only here: a proxy with a delivery process does not load the code that builds and sends.
        from mitmproxy_moesif.delivery.thread import DeliveryThread

        return DeliveryThread(self._hear)

    def _try_again(self, *, reported: bool) -> None:
        if reported:
            self._deaths = 0
            self._backoff.reset()
        else:
            self._deaths += 1
        if self._deaths >= LIVES:
            self._apart, self._fell_back = False, True
            log.error("moesif: %s; restart the proxy once that is fixed", self.trouble)
        self._loop.call_later(self._backoff.failed(), self._spawn)

    def _watch(self) -> None:
        if not self._apart or self._stopped:
            return
        if isinstance(self.server, ChildProcess):
            self._unanswered = 0 if self._heard else self._unanswered + 1
            if self._unanswered == PATIENCE:
                log.error("moesif: the delivery process does not answer; it is killed and replaced")
                self.server.kill()
            self._heard = False
            self.send("report", 0)
        self._loop.call_later(WATCH_INTERVAL, self._watch)

    def _replace(self, process: ChildProcess, code: int) -> None:
        if self._stopped or process is not self.server:
            return
        self.server = None
        process.discard()
        self._client.fault("helper")
        self._client.died(reported=self._reported)
        self._limited.error(
            "died",
            "moesif: the delivery process ended (%s); another one is started and gets what it had not stored",
            f"signal {-code}" if code < 0 else f"exit code {code}",
        )
        self._try_again(reported=self._reported)

    def _failed(self, error: Exception) -> None:
        self._client.fault("writing")
        self._limited.error("writing", "moesif: exchanges could not be handed over: %s", describe(error))

    # --- in the thread that listens to the server ----------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        self._heard = True
        if message[0] == "report":
            self._reported = True
            self._deaths = 0
        self._client.heard(message)

    def _ended(self, process: ChildProcess, code: int) -> None:
        self._client.ended()
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._replace, process, code)

"""Builds, stores and sends events for a proxy, in the delivery process or in a thread of the proxy.

It runs commands in the order received, and sends reports on the events and on the receiver's responses. If the proxy
disappears without a `close`, everything received so far is stored for the next proxy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.builder import Captured
from mitmproxy_moesif.delivery.debug import tell_built, tell_noted
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.delivery.protocol import Message
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import EventBuilder, NotSent
from mitmproxy_moesif.governance.model import GovernanceError, parse_config
from mitmproxy_moesif.governance.sampler import Sampler
from mitmproxy_moesif.governance.snapshot import Snapshot
from mitmproxy_moesif.log import RateLimitedLog, describe
from mitmproxy_moesif.recent.notes import Keep, Note
from mitmproxy_moesif.recent.reader import Reader
from mitmproxy_moesif.recent.store import RecentExchanges

REPORT_INTERVAL = 0.1
"""Seconds between two reports while something changes."""

TELL_INTERVAL = 1.0
"""Seconds until unchanged response tags of a receiver are sent to the proxy again."""

LOOK_INTERVAL = 1.0
"""Seconds between two reports while events only wait: a receiver may come back, or a disk be repaired."""

ORPHAN_SECONDS = 1.0
"""How long delivery may take if the proxy disappeared without a `close` and there is no disk to store events on."""

TAGS = ("X-Moesif-Config-Etag", "X-Moesif-Rules-Tag")
EMPTY = Snapshot()


class DeliveryServer:
    """Runs `commands`; `say` is called from several threads. `apart`: the proxy is another process."""

    def __init__(self, commands: Iterable[Message], say: Callable[[Message], None], *, apart: bool) -> None:
        self._messages = commands
        self._say = say
        self._apart = apart
        self._telling = threading.Lock()
        self._limited = RateLimitedLog()
        self._pipeline: Pipeline | None = None
        self._instances: dict[int, Instance] = {}
        self._sampling: dict[str, Snapshot] = {}
        self._told: dict[str, tuple[dict[str, str], float]] = {}
        self._recent = RecentExchanges()
        self._reader = Reader(self._say)
        self._ended = False
        self._commands: dict[str, Callable[..., None]] = {
            "open": self._open,
            "instance": self._instance,
            "configure": self._configure,
            "forget": self._instances.clear,
            "sample": self._sample,
            "exchanges": self._exchanges,
            "drain": self._drain,
            "close": self._close,
            "report": self._report_now,
            "not_captured": self._not_captured,
            "recent": lambda *asked: self._reader.ask(self._recent, *asked),  # in its own thread: there may be many
        }

    def run(self) -> None:
        """Run until the proxy says `close`, or is gone."""
        for name, *arguments in self._messages:
            try:
                self._commands[name](*arguments)
            except Exception as error:  # noqa: BLE001 - a failed command must not stop the others
                self._fault("order", error, f"the order {name}")
            if self._ended:
                return
        if self._pipeline is not None:
            if self._pipeline.condition().spool is None:
                self._pipeline.drain(ORPHAN_SECONDS)
            self._pipeline.close(keep=True)

    def _fault(self, kind: str, error: Exception, where: str = "") -> None:
        if self._pipeline is not None:
            self._pipeline.fault(kind)
        where = where or kind
        self._limited.error(where, "moesif: a fault in %s, the traffic is not affected: %s", where, describe(error))

    # --- commands ------------------------------------------------------------------------------------------------

    def _open(self, folder: str | None, max_bytes: int, past: Mapping[str, Any], keep: tuple[int, bool]) -> None:
        self._recent = RecentExchanges(Keep(*keep), self._fault)
        sampler = Sampler(lambda account: self._sampling.get(account, EMPTY))
        maker = EventBuilder(sampler, self._fault, self._built if keep[0] else tell_built)
        spools = Path(folder) if folder is not None else None
        self._pipeline = Pipeline(
            spools,
            max_bytes,
            maker,
            self._answered,
            apart=self._apart,
            past=Reading.of(past),
            recent=self._recent,
        )
        self._commands |= {
            "bound_spool": self._pipeline.bound_spool,
            "hurry": self._pipeline.hurry,
            "abort": self._pipeline.abort,
        }
        self._pipeline.start()
        threading.Thread(target=self._report, args=(self._pipeline,), name="moesif-report", daemon=True).start()

    def _built(self, instance: Instance, exchange: Exchange, facts: Attributes, made: bytes | NotSent) -> None:
        self._recent.built(instance, exchange, facts, made)
        tell_built(instance, exchange, facts, made)

    def _instance(self, key: int, name: str, settings: Mapping[str, Any], hooks: bytes | None) -> None:
        self._instances[key] = Instance.compile(parse_settings(settings), hooks, name=name)

    def _configure(self, keys: Sequence[int]) -> None:
        assert self._pipeline is not None
        self._pipeline.configure([self._instances[key] for key in keys])

    def _sample(self, account: str, config: bytes) -> None:
        with suppress(GovernanceError):  # the proxy has already logged the reason
            self._sampling[account] = Snapshot(parse_config(config))

    def _exchanges(self, first: int, exchanges: list[tuple[int, protocol.Plain]]) -> None:
        """Put all exchanges at once: each `put` wakes the builder's thread."""
        assert self._pipeline is not None
        self._pipeline.put(*[Captured(number, self._content(one)) for number, one in enumerate(exchanges, first)])

    def _content(self, handed_over: tuple[int, protocol.Plain]) -> tuple[Instance, Exchange] | None:
        try:
            key, plain = handed_over
            return self._instances[key], protocol.to_exchange(plain)
        except Exception as error:  # noqa: BLE001 - must not affect the other exchanges
            self._fault("handing over", error)
            return None

    def _drain(self, seconds: float) -> None:
        """Drains in its own thread, so that new commands are still accepted."""

        def drain(pipeline: Pipeline) -> None:
            pipeline.drain(seconds)
            self._say(("drained",))

        threading.Thread(target=drain, args=(self._pipeline,), name="moesif-drain", daemon=True).start()

    def _close(self) -> None:
        assert self._pipeline is not None
        self._ended = True
        self._pipeline.close()
        self._tell(self._pipeline, "closed")

    def _not_captured(self, notes: list[tuple[Any, ...]]) -> None:
        self._recent.noted(notes)
        for note in map(Note._make, notes):
            tell_noted(note)

    # --- what is told ---------------------------------------------------------------------------------------------

    def _answered(self, account: str, headers: Mapping[str, str]) -> None:
        """Every batch's response has the tags. To save the proxy's time, they are sent on change, or after a while."""
        tags, now = {name: headers[name] for name in TAGS if name in headers}, time.monotonic()
        told, at = self._told.get(account, ({}, 0.0))
        if tags and (tags != told or now - at >= TELL_INTERVAL):
            self._told[account] = tags, now
            self._say(("answered", account, tags))

    def _report_now(self, number: int) -> None:
        assert self._pipeline is not None
        self._tell(self._pipeline, "report", number)

    def _tell(self, pipeline: Pipeline, kind: str, *more: int) -> None:
        """Read the condition and send it in one step, so that a later message is never older."""
        with self._telling:
            if not self._ended or kind == "closed":
                self._say((kind, protocol.from_condition(pipeline.condition()), *more))

    def _report(self, pipeline: Pipeline) -> None:
        changed = pipeline.ledger.changed
        while not self._ended:
            changed.clear()
            try:
                self._tell(pipeline, "report")
            except Exception as error:  # noqa: BLE001 - the thread never dies of one error
                self._fault("report", error)
            time.sleep(REPORT_INTERVAL)
            waits = pipeline.reading().waiting or pipeline.store.spools.trouble is not None
            changed.wait(LOOK_INTERVAL if waits else None)

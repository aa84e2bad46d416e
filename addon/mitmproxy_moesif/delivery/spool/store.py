"""The events waiting to be sent: on disk if there is a spool, in bounded memory if there is none or it fails.

Each destination has two lanes. *Fresh* holds recent events, still in memory (and on disk); *backlog* is everything
older, read back from disk page by page, so that a day without a receiver costs no memory. A failed send turns fresh
events into backlog; after it, the lanes alternate, so that a long backlog never starves new events.

While the process lives no event is sent twice, whatever the disk does. The next process may send again events that were
settled while the disk refused removals: the receiver can recognize these by transaction id.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mitmproxy_moesif.config.destination import is_quarantine
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.delivery.batch import Batch, Part
from mitmproxy_moesif.delivery.ledger import Ledger, Place, Settlement
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.decisions import Decision, Decisions
from mitmproxy_moesif.delivery.spool.file import NONE, ChunkInfo, SpoolDamaged, SpoolError, SpoolFile, SpoolFull
from mitmproxy_moesif.delivery.spool.queue import ALL_KEYS, Checkpoint, EventQueue, Waiting
from mitmproxy_moesif.delivery.spool.set import SpoolSet
from mitmproxy_moesif.log import log
from mitmproxy_moesif.recent.notes import Moved, unnoticed

FRESH_MAX_BYTES = 8_000_000
PAGE = 64
PAGE_MAX_BYTES = 8_000_000
SAVE_SECONDS = 0.5
"""How long it may take at the end to save events from memory, or from a file that is gone."""


class Store:
    """Chunks of all destinations. The builder puts, the maintenance thread maintains, the senders take and settle."""

    def __init__(
        self,
        ledger: Ledger,
        folder: Path | None,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        moved: Moved = unnoticed,
    ) -> None:
        self._ledger = ledger
        self._moved = moved
        self.spools = SpoolSet(folder, max_bytes, ledger.account, clock)
        self._decisions = Decisions(folder)
        self._decided: Sequence[Decision] | None = None
        self._clock = clock
        self._keeping = threading.Lock()  # held by whoever makes files and moves chunks; taken before `_lock`
        self._lock = threading.Lock()
        self._lanes: dict[str, EventQueue] = {}
        self._full = self._closed = False
        self.memory_bytes = 0

    # --- the builder's side --------------------------------------------------------------------------------------

    def put(self, chunks: Sequence[Chunk], settlement: Settlement) -> None:
        """Store chunks and settle their exchanges. They are on disk on return, if the disk works."""
        with self.spools.accounting:
            places = self._write(chunks, settlement)
            for chunk, spool in places:
                settlement.stored[spool.path.name if spool is not None else None] += len(chunk.events)
            self._ledger.settle(settlement)
        if chunks:
            self._tell_full("spool_full" in settlement.dropped)
        for chunk, spool in places:
            self._moved(chunk.transaction_ids, "stored", "on disk" if spool is not None else "in memory")
            self._take_in(chunk, spool)

    def _write(self, chunks: Sequence[Chunk], settlement: Settlement) -> list[tuple[Chunk, SpoolFile | None]]:
        """Where each stored chunk is now: in a spool, or only in memory. If there is no room for all, those that fit.

        The account is stored in the same transaction, even if there is no chunk.
        """
        spool, kept = self.spools.current, chunks
        while spool is not None:
            try:
                try:
                    spool.append(kept, self._ledger.account(settlement))
                except SpoolFull:
                    kept = self._drop_for_room(kept, spool, settlement)
                    continue
            except SpoolError as error:
                self.spools.tell(error, spool)
                spool = None
            else:
                self.spools.works()
            break
        return [(chunk, spool) for chunk in kept]

    def _drop_for_room(self, chunks: Sequence[Chunk], spool: SpoolFile, settlement: Settlement) -> list[Chunk]:
        """Drop the chunks for which there is no room; returns the others. Raises SpoolError."""
        kept: list[Chunk] = []
        for chunk in chunks:
            if spool.has_room([*kept, chunk]):
                kept.append(chunk)
        for chunk in chunks:
            if chunk not in kept:
                settlement.dropped["spool_full"] += len(chunk.events)
                self._moved(chunk.transaction_ids, "dropped", "spool_full")
        return kept

    def _tell_full(self, full: bool) -> None:
        if full and not self._full:
            log.warning("moesif: the spool is full (moesif_spool_max_bytes); new events are dropped and counted")
        self._full = full

    def _take_in(self, chunk: Chunk, spool: SpoolFile | None) -> None:
        with self._lock:
            if self._closed:  # the stored account counts events in memory as lost, so they must not be sent any more
                return
            lanes = self._lane(chunk.destination)
            waiting = Waiting(chunk, spool, self._clock())
            lanes.fresh.append(waiting)
            lanes.hold(waiting)
            lanes.count(len(chunk.events), chunk.created)
            lanes.fresh_events += len(chunk.events)
            lanes.fresh_bytes += chunk.size
            if spool is None:
                self.memory_bytes += chunk.size
            elif lanes.fresh_bytes > FRESH_MAX_BYTES:
                lanes.demote()

    # --- the keeper's side ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open this process's spool."""
        self.spools.writable()

    def adopt(self) -> list[str]:
        """Take over the files of ended processes; returns the destinations of their events. Usually cheap."""
        found: set[str] = set()
        for name, spool in self.spools.left_behind():
            try:
                found |= self._adopt(name, spool)
            except SpoolError as error:
                spool.close(keep=True)  # so that it can be taken over the next time
                self.spools.tell_unreadable(error, spool)
        return sorted(found)

    def _adopt(self, name: str, spool: SpoolFile) -> set[str]:
        rows, account = spool.index(), spool.account()
        events, destinations = sum(row.count for row in rows), {row.destination for row in rows}
        with self.spools.accounting:
            lost = spool.unreadable_events
            added = self.spools.add(spool, lambda: self._ledger.recover(events, name, spool.path.name, account, lost))
            self.spools.note()
        if not added:
            spool.close(keep=True)
            return set()
        with self._lock:
            for destination in destinations:
                self._lane(destination).cover(spool, 1, ALL_KEYS)
            for row in rows:
                self._lane(row.destination).count(row.count, row.created)
        self._decided = None
        if events:
            log.info("moesif: found %s that an earlier process left in the spool", number_of(events, "event"))
        return destinations

    def found_all(self) -> None:
        """The files that this process's predecessor left, and that were not found, belong to other processes now."""
        with self.spools.accounting:
            self._ledger.found_all()
            self.spools.note()

    def maintain(self) -> list[str]:
        """Move events that had to stay in memory to disk, and free disk space. To be called from time to time.

        Returns the destinations whose backlog could not be read before and should be tried again.
        """
        if self.spools.folder is None:
            return []
        with self._keeping:
            self._return_to_disk(math.inf)
            self._close_drained()
            self.spools.share_room()
            return self._resume()

    def _return_to_disk(self, until: float) -> None:
        """Store events that are only in memory, or in a file that is gone from its folder."""
        spool = self.spools.writable()
        gone = self.spools.gone()
        more = True
        while spool is not None and more and self._clock() < until:
            with self._lock:  # released between two pages, so that others can put and send
                try:
                    more = any(self._move_some(lanes, gone, spool) for lanes in self._lanes.values())
                except SpoolFull:
                    return
                except SpoolError as error:
                    self.spools.tell(error, spool)
                    return

    def _move_some(self, lanes: EventQueue, gone: Collection[SpoolFile], spool: SpoolFile) -> bool:
        """Move what is in memory, and one page of what is on disk; returns whether there may be more pages."""
        checkpoints = [checkpoint for checkpoint in lanes.checkpoints.values() if checkpoint.spool in gone]
        more = any(self._move_page(lanes, checkpoint, spool) for checkpoint in checkpoints)
        for waiting in (*lanes.leased, *lanes.backlog, *lanes.fresh):
            if waiting.spool is None or waiting.spool in gone:
                self._move(lanes, waiting, spool)
        return more

    def _move(self, lanes: EventQueue, waiting: Waiting, spool: SpoolFile) -> None:
        """Move a chunk to `spool`, even if a sender has leased it: senders use only its events."""
        place, former = waiting.place, waiting.row
        with self.spools.accounting:
            self._ledger.move(waiting.count, place, spool.path.name)
            try:
                spool.append([waiting.chunk], self._ledger.account())
            except SpoolError:
                self._ledger.move(waiting.count, spool.path.name, place)
                raise
        self.spools.works()
        waiting.spool = spool
        lanes.hold(waiting)
        if former is None:
            self.memory_bytes -= waiting.chunk.size
        else:
            self.spools.remove(former[0], [former[1]])
            lanes.held.discard(former)

    def _move_page(self, lanes: EventQueue, checkpoint: Checkpoint, spool: SpoolFile) -> bool:
        page = self._read_page(lanes, checkpoint)
        if page is None:
            return False
        chunks, last = page
        for chunk in chunks:
            waiting = Waiting(chunk, checkpoint.spool, self._clock())
            self._move(lanes, waiting, spool)
            lanes.forget(waiting)
        checkpoint.after = last
        return True

    def _close_drained(self) -> None:
        drained = self.spools.take_drained()
        with self._lock:
            for lanes in self._lanes.values():
                for spool in drained:
                    lanes.checkpoints.pop(spool, None)
        for spool in drained:
            spool.close()

    def _resume(self) -> list[str]:
        with self._lock:
            return sorted(lanes.destination for lanes in self._lanes.values() if lanes.resume())

    def close(self, *, keep: bool = False) -> None:
        """Close the files, for the next process to take over. Takes about a second at most.

        `keep`: keep this process's own file even if it is empty, for its account.
        """
        with self._lock:
            self._closed = True
        if self._keeping.acquire(timeout=SAVE_SECONDS):  # else the maintenance thread is moving many events right now
            try:
                self._save()
            finally:
                self._keeping.release()
        self.spools.close(keep=keep)

    def _save(self) -> None:
        """Move events to disk that would be lost with this process, as far as possible; count the others as dropped."""
        if self.spools.folder is None or not self._ledger.read().waiting:
            return
        self._return_to_disk(self._clock() + SAVE_SECONDS)
        with self._lock:
            for spool in self.spools.gone():
                lost = sum(lanes.events_in(spool) for lanes in self._lanes.values())
                self._ledger.drop(lost, "shutdown", spool.path.name)

    # --- the senders' side ---------------------------------------------------------------------------------------

    def due(self, destination: str, batch_size: int, age: float) -> float | None:
        """Seconds until something is to be sent: 0 with a full batch, a backlog, or an event older than `age`.

        None if nothing waits, or if it cannot be read from disk now: `maintain` returns when to try again.
        """
        with self._lock:
            lanes = self._lane(destination)
            return 0.0 if lanes.has_backlog() else lanes.fresh_due(batch_size, age, self._clock())

    def fresh_events(self, destination: str) -> int:
        """Approximate number of fresh events, read without the lock."""
        lanes = self._lanes.get(destination)
        return lanes.fresh_events if lanes is not None else 0

    def fresh_due(self, destination: str, batch_size: int, age: float) -> bool:
        with self._lock:
            return self._lane(destination).fresh_due(batch_size, age, self._clock()) == 0.0

    def take_fresh(self, destination: str, max_events: int, max_bytes: int) -> list[Waiting]:
        """Lease whole chunks, oldest first, at least one if there is any. The caller must `settle` them."""
        with self._lock:
            lanes = self._lane(destination)
            taken = lanes.take(lanes.fresh, max_events, max_bytes)
            for waiting in taken:
                lanes.fresh_events -= waiting.count
                lanes.fresh_bytes -= waiting.chunk.size
            return taken

    def take_backlog(self, destination: str, max_events: int, max_bytes: int) -> list[Waiting]:
        with self._lock:
            lanes = self._lane(destination)
            if len(lanes.backlog) < PAGE // 2:
                self._refill(lanes)
            return lanes.take(lanes.backlog, max_events, max_bytes)

    def demote(self, destination: str) -> None:
        """The receiver fails: turn fresh events into backlog."""
        with self._lock:
            self._lane(destination).demote()

    def settle(self, destination: str, parts: Sequence[Part]) -> None:
        """Count the outcome of leased chunks. Removes settled chunks; the rest goes back to the front of the backlog.

        The row of a partly settled chunk shrinks to its unsettled events.
        """
        for part in parts:
            self._move_aside(part)
        rest = [part for part in parts if part.left]
        done = [part.waiting for part in parts if not part.left]
        with self._lock:
            lanes = self._lane(destination)
            places = [(part, part.waiting.place) for part in parts]
            for part in parts:
                lanes.count(-len(part.settled))
                lanes.leased.discard(part.waiting)
            for part in rest:
                self._shrink(part.waiting, part.rest())
            lanes.backlog.extendleft(part.waiting for part in reversed(rest))
            removed = _by_spool(done)
            shrunk = _by_spool(part.waiting for part in rest if part.settled)
        with self.spools.accounting:
            for part, place in places:
                self._count(part, place)
            self._write_off(removed, shrunk)
        with self._lock:
            for waiting in done:
                lanes.release(waiting)
                if waiting.spool is None:
                    self.memory_bytes -= waiting.chunk.size

    def _write_off(
        self, removed: Mapping[SpoolFile, Collection[int]], shrunk: Mapping[SpoolFile, Mapping[int, Chunk]]
    ) -> None:
        """Remove and shrink rows, and store the account: with this process's own rows, or else after the others."""
        spools, current = {*removed, *shrunk}, self.spools.current
        for spool in sorted(spools, key=lambda spool: spool is current):
            self.spools.remove(spool, removed.get(spool, ()), shrunk.get(spool, NONE))
        if spools and current not in spools:
            self.spools.note()

    def _move_aside(self, part: Part) -> None:
        """Store events for another destination, only on disk. Without a disk, events to be quarantined are dropped."""
        for chunk in part.to_move():
            if self._append_aside(chunk, part.waiting.place):
                continue
            if is_quarantine(chunk.destination):
                self._ledger.drop(len(chunk.events), "refused", part.waiting.place)
                log.error("moesif: dropped without a spool, and counted: %s", number_of(len(chunk.events), "event"))
            else:
                part.settled.difference_update(part.moved[chunk.destination])

    def _append_aside(self, chunk: Chunk, place: Place) -> bool:
        """Store a chunk for another destination. Its former row is removed later, so that no event is lost."""
        spool = self.spools.current
        if spool is None:
            return False
        try:
            spool.append([chunk])
        except SpoolError as error:
            self.spools.tell(error, spool)
            return False
        assert chunk.key is not None
        with self._lock:
            lanes = self._lane(chunk.destination)
            lanes.cover(spool, chunk.key, chunk.key)
            lanes.count(len(chunk.events), chunk.created)
        self._ledger.move(len(chunk.events), place, spool.path.name)
        return True

    def _count(self, part: Part, place: Place) -> None:
        if part.delivered:
            self._ledger.deliver(part.delivered, place)
        for cause, count in part.dropped.items():
            self._ledger.drop(count, cause, place)

    def _shrink(self, waiting: Waiting, rest: Chunk) -> None:
        if waiting.spool is None:
            self.memory_bytes -= waiting.chunk.size - rest.size
        waiting.chunk = rest

    def destinations(self) -> list[str]:
        """The destinations that have, or had, waiting events."""
        with self._lock:
            return list(self._lanes)

    def waits(self, destination: str) -> bool:
        """Whether any event waits, including those being sent, or not readable at present."""
        with self._lock:
            lanes = self._lane(destination)
            return bool(lanes.leased or lanes.fresh or lanes.backlog or lanes.checkpoints)

    def decide(self) -> list[str]:
        """Carry out the operator's decisions; returns the destinations that got something to send.

        Done once, and again only for files found later: an event that is sent again may be quarantined again.
        """
        current = self._decisions.current()
        if current is self._decided:
            return []
        self._decided = current
        return [one.to for one in current if self._decide(one) and one.to is not None]

    def _decide(self, decision: Decision) -> bool:
        """Carry out one decision; returns whether it applied to any event."""
        found, more = False, decision.destination in self.contents()
        while more and (taken := self.take_backlog(decision.destination, PAGE, PAGE_MAX_BYTES)):
            batches = [Batch([waiting]) for waiting in taken]
            decided = [batch for batch in batches if batch.created < decision.before]
            for batch in decided:
                if decision.to is None:
                    batch.mark_dropped(0, batch.count, "discarded")
                else:
                    batch.mark_moved(0, batch.count, decision.to)
            self.settle(decision.destination, [part for batch in batches for part in batch.parts])
            found = found or bool(decided)
            more = not any(batch.open() for batch in batches)
        return found

    def contents(self) -> dict[str, tuple[int, float]]:
        """The number of events waiting for each destination, and the approximate time of the oldest (wall clock)."""
        with self._lock:
            return {name: (lanes.events, lanes.since) for name, lanes in self._lanes.items() if lanes.events}

    def oldest_age(self, destinations: Collection[str]) -> float | None:
        """Seconds that the oldest event for these destinations has been waiting; None if none waits."""
        with self._lock:
            now, wall = self._clock(), time.time()
            lanes = [self._lanes[name] for name in destinations if name in self._lanes and self._lanes[name].events]
            return max((one.oldest_age(now, wall) for one in lanes), default=None)

    # --- under the lock ------------------------------------------------------------------------------------------

    def _lane(self, destination: str) -> EventQueue:
        return self._lanes.setdefault(destination, EventQueue(destination))

    def _refill(self, lanes: EventQueue) -> None:
        size = 0
        for checkpoint in list(lanes.checkpoints.values()):
            while len(lanes.backlog) < PAGE and size < PAGE_MAX_BYTES:
                if (page := self._read_page(lanes, checkpoint)) is None:
                    break
                chunks, checkpoint.after = page
                for chunk in chunks:
                    age = max(0.0, time.time() - chunk.created)
                    waiting = Waiting(chunk, checkpoint.spool, self._clock() - age)
                    lanes.backlog.append(waiting)
                    lanes.hold(waiting)
                    size += chunk.size

    def _read_page(self, lanes: EventQueue, checkpoint: Checkpoint) -> tuple[list[Chunk], int] | None:
        """The checkpoint's next chunks that are not held in memory, and the key up to which rows were read.

        None if there are no more, which removes the checkpoint, or if they cannot be read now.
        """
        if checkpoint.paused:
            return None
        chunks: list[Chunk] = []
        spool, after, size = checkpoint.spool, checkpoint.after, 0
        try:
            rows = checkpoint.rows(PAGE)
            if not rows:
                del lanes.checkpoints[spool]
            for row in rows:
                if lanes.is_to_be_read(spool, row) and (chunk := self._load(lanes, spool, row)) is not None:
                    chunks.append(chunk)
                    size += chunk.size
                after = row.key
                if size > PAGE_MAX_BYTES:
                    break
        except SpoolError as error:
            checkpoint.paused = True
            self.spools.tell_unreadable(error, spool)
        return (chunks, after) if after > checkpoint.after else None

    def _load(self, lanes: EventQueue, spool: SpoolFile, row: ChunkInfo) -> Chunk | None:
        try:
            return spool.load(row.key)
        except (KeyError, SpoolDamaged):
            lanes.count(-row.count)
            with self.spools.accounting:
                self._ledger.drop(row.count, "spool_damaged", spool.path.name)
                self._write_off({spool: [row.key]}, {})
            log.error("moesif: unreadable in the spool, dropped and counted: %s", number_of(row.count, "event"))
            return None


def _by_spool(chunks: Iterable[Waiting]) -> dict[SpoolFile, dict[int, Chunk]]:
    """The chunks that have a row, by its spool and key: a chunk that is moved to another spool gets another key."""
    found = defaultdict[SpoolFile, dict[int, Chunk]](dict)
    for waiting in chunks:
        if (row := waiting.row) is not None:
            found[row[0]][row[1]] = waiting.chunk
    return dict(found)

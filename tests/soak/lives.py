"""The proxy from start to end, again and again on the same spool folder."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from typing import Any, Literal

from tests.soak.bodies import BATCH_BYTES, OVERSIZE_BODY
from tests.soak.journal import Journal
from tests.soak.judgement import Span
from tests.support import APPLICATION_ID
from tests.support.addon import addon_options, exit_counts
from tests.support.proxy import Mitmdump, Option

ADOPTED = re.compile(r"found (\d+) events? that an earlier process left in the spool")
ADMIN = re.compile(r"status, metrics and Admin API at http://127\.0\.0\.1:(\d+)")
SPOOL = "moesif-spool"
End = Literal["kill", "terminate"]


@dataclass(eq=False)
class Life:
    """One process. `began` and `ended` are monotonic; `ending` is set before it is told to; `status` is the last read.

    `left` is the number of events that earlier lives left in the spool, `samples` are its resident memory, (seconds,
    MB), `files` how many it had open at most.
    """

    number: int
    proxy: Mitmdump
    admin_port: int
    began: float
    left: int = 0
    ending: bool = False
    ended: float = 0.0
    how: End | None = None
    status: dict[str, Any] = field(default_factory=dict)
    samples: list[tuple[float, float]] = field(default_factory=list)
    files: int = 0

    @property
    def unopened(self) -> int:
        """How many of the events that earlier lives left it has not found yet."""
        return self.left - sum(map(int, ADOPTED.findall(self.proxy.output)))

    def drops(self) -> Mapping[str, int]:
        """By cause: from the exit line, or as last read before a kill."""
        if self.how == "terminate":
            causes: dict[str, int] = exit_counts(self.proxy.output)["causes"]
            return causes
        return dict(self.status.get("dropped", {}))


class Lives:
    """Starts and ends the proxy. `down` are the times from a signal until the next one listens."""

    def __init__(self, folder: Path, upstream: str, collector: str, journal: Journal) -> None:
        self.folder = folder
        self.current: Life | None = None
        self.all: list[Life] = []
        self.down: list[Span] = []
        self._upstream = upstream
        self._collector = collector
        self._journal = journal

    def port(self) -> int | None:
        """Where the proxy listens, None while there is none."""
        life = self.current
        return None if life is None else life.proxy.port

    def start(self, *, compress: bool) -> Life:
        began, left = time.monotonic(), len(self.spooled()) if self.all else 0
        proxy = Mitmdump(self._upstream, self._options(compress), folder=self.folder)
        try:
            found = ADMIN.search(proxy.wait_for_output("status, metrics and Admin API at"))
            assert found, "the admin listener did not tell its port"
        except BaseException:
            proxy.close()
            raise
        life = Life(len(self.all) + 1, proxy, int(found[1]), began, left)
        if self.all:
            self.down.append((self.all[-1].ended, time.monotonic()))
        self.all.append(life)
        self.current = life
        self._journal.note(f"life {life.number} begins, process {proxy.pid}, compress {compress}")
        return life

    def end(self, how: End) -> Life:
        """The life that ended; `ended` is when it was told to. Raises `AssertionError` where it does not end."""
        life = self.current
        assert life is not None
        life.how, life.ending, life.ended = how, True, time.monotonic()
        if how == "kill":
            life.proxy.kill()
        elif (code := life.proxy.stop(SIGTERM)) != 0:
            self._journal.found("exit code", f"life {life.number} ended with {code} after SIGTERM")
        self.current = None
        self._journal.note(f"life {life.number} ended: {how}")
        return life

    def close(self) -> None:
        life, self.current = self.current, None
        if life is not None:
            life.ending = True
            life.proxy.close()

    def spooled(self) -> list[str]:
        """The transaction ids on disk while no proxy runs, from a copy: opening a file changes it."""
        ids: list[str] = []
        with tempfile.TemporaryDirectory(prefix="copy-", dir=self.folder) as copy:
            for path in (self.folder / SPOOL).glob("spool-*.sqlite*"):
                if path.name.endswith((".sqlite", "-wal")):
                    shutil.copy(path, copy)
            for path in Path(copy).glob("*.sqlite"):
                with closing(sqlite3.connect(path)) as spool:
                    for (row,) in spool.execute("SELECT transaction_ids FROM chunks"):
                        ids += row.split(",")
        return ids

    def damaged(self) -> list[str]:
        return sorted(path.name for path in (self.folder / SPOOL).glob("*.damaged-*"))

    def _options(self, compress: bool) -> dict[str, Option]:
        given = addon_options(
            application_id=APPLICATION_ID,
            api_endpoint=self._collector,
            admin_listen="127.0.0.1:0",
            flush_interval=200,
            batch_max_bytes=BATCH_BYTES,
            connect_timeout=1000,
            send_timeout=2500,
            enable_compression=compress,
            request_max_body_size_limit=OVERSIZE_BODY + 10_000,
            request_body_masks=["password", "card"],
            response_body_masks=["password", "card"],
            request_header_masks=["x-api-key"],
            request_query_masks=["token"],
        )
        return {**given, "flow_detail": 0}

"""What happened when, and what was found wrong. Written to from all threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path


class Journal:
    """`note` what is done, `found` what does not hold: the first of each kind is said at once."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.findings: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._began = time.monotonic()
        self._path = path
        self._say = say
        self._lock = threading.Lock()

    def elapsed(self, now: float | None = None) -> float:
        """Seconds from the start to now, or to another monotonic time."""
        return (time.monotonic() if now is None else now) - self._began

    def note(self, text: str) -> None:
        with self._lock, self._path.open("a") as file:
            file.write(f"{self.elapsed():8.3f} {text}\n")

    def count(self, fault: str) -> None:
        """One more of these faults was done."""
        with self._lock:
            self.done[fault] += 1

    def found(self, kind: str, text: str) -> None:
        self.note(f"FOUND {kind}: {text}")
        with self._lock:
            self.counts[kind] += 1
            if kind in self.findings:
                return
            self.findings[kind] = text
        self._say(f"FOUND at {self.elapsed():.1f} s: {kind}: {text}")

    def reasons(self) -> list[str]:
        """Each kind of finding, with how often it was."""
        return [f"{kind} ({self.counts[kind]} times): {text}" for kind, text in self.findings.items()]

"""All that was measured in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench.parts import Part
from tests.bench.proxy import Account
from tests.bench.stats import Spread, difference, ratio
from tests.bench.streams import Transfer
from tests.bench.turns import Sample, Turns

PAINTED = "first paint of the traffic page"
FILLED = "its rows are there"
SHOWN = "an exchange is shown after its end"
SHOWN_LATEST = "the latest of 20 is shown after its end"


@dataclass(frozen=True)
class Comparison:
    """Variants under the same load; the first of `titles` is what the others are compared with. `rate` in requests a
    second, None at saturation."""

    title: str
    titles: dict[str, str]
    connections: int
    rate: float | None
    turns: Turns

    @property
    def base(self) -> str:
        return next(iter(self.titles))

    def has(self, *names: str) -> bool:
        return all(name in self.titles for name in names)

    def spread(self, name: str, what: Callable[[Sample], float]) -> Spread:
        return Spread.of(self.turns.values(name, what))

    def ratio(self, name: str, to: str, what: Callable[[Sample], float]) -> Spread:
        return ratio(self.turns.values(name, what), self.turns.values(to, what))

    def difference(self, name: str, to: str, what: Callable[[Sample], float]) -> Spread:
        return difference(self.turns.values(name, what), self.turns.values(to, what))


@dataclass(frozen=True)
class Memory:
    """Resident bytes after so many exchanges, over a long run; the first reading is after the start's growth."""

    readings: list[tuple[int, int]]

    @property
    def growth(self) -> int:
        """Bytes from the first reading to the last."""
        return self.readings[-1][1] - self.readings[0][1]

    @property
    def exchanges(self) -> int:
        return self.readings[-1][0]


@dataclass
class Results:
    """Comparisons by the scenario's name; transfers by direction and variant; first bytes, in milliseconds, by variant
    with one median a round; `page`, in milliseconds, by what was waited for; `notes` says what was left out."""

    machine: dict[str, str]
    rounds: int
    seconds: int
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    first_bytes: dict[str, list[float]] = field(default_factory=dict)
    pieces: dict[str, list[float]] = field(default_factory=dict)
    page: dict[str, list[float]] = field(default_factory=dict)
    transfers: dict[str, dict[str, list[Transfer]]] = field(default_factory=dict)
    memory: Memory | None = None
    parts: list[Part] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether there is anything to tell."""
        found = (self.comparisons, self.first_bytes, self.pieces, self.page, self.transfers, self.memory, self.parts)
        return any(found)

    def part(self, name: str) -> float | None:
        """Microseconds; None where it was not measured."""
        return next((part.median for part in self.parts if part.name == name), None)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

"""Variants side by side, taking turns under load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tests.bench import proc
from tests.bench.load import Load
from tests.bench.proxy import Account, Proxy
from tests.bench.stats import PERCENTILES, percentile
from tests.bench.variants import Variant


@dataclass(frozen=True)
class Sample:
    """One variant in one round. Seconds of load and of CPU time (of all, and of the event loops' threads alone);
    `behind`: how long it worked on after the load had ended; percentiles in milliseconds."""

    requests: int
    errors: int
    seconds: float
    cpu: float
    loop: float
    behind: float
    percentiles: Mapping[int, float]
    late: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time for each exchange."""
        return self.cpu / max(1, self.requests) * 1e6

    @property
    def cores(self) -> float:
        """How many cores it kept busy."""
        return self.cpu / self.seconds

    @property
    def loop_us(self) -> float:
        return self.loop / max(1, self.requests) * 1e6


def rate(sample: Sample) -> float:
    return sample.rate


def cpu_us(sample: Sample) -> float:
    return sample.cpu_us


def loop_us(sample: Sample) -> float:
    return sample.loop_us


def cores(sample: Sample) -> float:
    return sample.cores


def at(quantile: int) -> Callable[[Sample], float]:
    """Reads this percentile of a sample."""
    return lambda sample: sample.percentiles[quantile]


@dataclass(frozen=True)
class Slice:
    """A stretch of load on one variant, and the CPU time that it cost."""

    load: Load
    cpu: float
    loop: float
    behind: float


def merged(slices: Sequence[Slice]) -> Sample:
    """The slices of one variant in one round. Percentiles are those of all latencies where they are known one by one,
    else the mean of the slices' percentiles."""
    loads = [slice_.load for slice_ in slices]
    latencies = [latency for load in loads for latency in load.latencies]
    quantiles = {
        quantile: percentile(latencies, quantile)
        if latencies
        else sum(load.percentiles[quantile] for load in loads) / len(loads)
        for quantile in PERCENTILES
    }
    return Sample(
        requests=sum(load.requests for load in loads),
        errors=sum(load.errors for load in loads),
        seconds=sum(load.seconds for load in loads),
        cpu=sum(slice_.cpu for slice_ in slices),
        loop=sum(slice_.loop for slice_ in slices),
        behind=sum(slice_.behind for slice_ in slices),
        percentiles=quantiles,
        late=max(load.late for load in loads),
    )


class Loading(Protocol):
    """Puts a proxy under load, in the round of this number."""

    def __call__(self, proxy: Proxy, *, number: int) -> Load: ...


@dataclass
class Turns:
    """Samples by the variant's name, one a round; the accounts of all that capture."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)

    def values(self, name: str, what: Callable[[Sample], float]) -> list[float]:
        return [what(sample) for sample in self.samples[name]]


def measured(proxy: Proxy, load: Callable[[Proxy], Load]) -> Slice:
    """A stretch of load; what is left to do after it counts too."""
    cpu, loop = proc.cpu_seconds(proxy.pid), proc.loop_seconds(proxy.pid)
    done = load(proxy)
    behind = proxy.settle()
    return Slice(done, proc.cpu_seconds(proxy.pid) - cpu, proc.loop_seconds(proxy.pid) - loop, behind)


def take_turns(
    variants: Sequence[Variant],
    rounds: int,
    start: Callable[[Variant], Proxy],
    warm_up: Callable[[Proxy], object],
    load: Loading,
    *,
    passes: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Turns:
    """In each round all variants are started anew and warmed up, then each is under load twice a pass: A B C, C B A.

    What drifts during a round, and how a process happened to lie in memory, weigh
    the same on all.
    """
    turns = Turns({variant.name: [] for variant in variants})
    for number in range(rounds):
        order = list(variants) if number % 2 == 0 else list(reversed(variants))
        with ExitStack() as running:
            proxies = {variant.name: running.enter_context(start(variant)) for variant in order}
            for proxy in proxies.values():
                warm_up(proxy)
                proxy.settle()
            slices: dict[str, list[Slice]] = {name: [] for name in proxies}
            for name in [*proxies, *reversed(proxies)] * passes:
                slices[name].append(measured(proxies[name], partial(load, number=number)))
            for variant in variants:
                turns.samples[variant.name].append(merged(slices[variant.name]))
                account = proxies[variant.name].stop()
                if account is not None:
                    turns.accounts.append(account)
        say(f"  round {number + 1} of {rounds}: {_rates(turns)}")
    return turns


def _rates(turns: Turns) -> str:
    return ", ".join(f"{name} {samples[-1].rate:.0f}/s" for name, samples in turns.samples.items())

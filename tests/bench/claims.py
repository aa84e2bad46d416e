"""What the product promises, against what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.bench import variants
from tests.bench.results import PAINTED, SHOWN_LATEST, Comparison, Results
from tests.bench.stats import Spread, difference, ratio
from tests.bench.turns import at, cpu_us, rate


@dataclass(frozen=True)
class Claim:
    """`measured` is reached where its median is at least (or, `at_most`, at most) the target."""

    text: str
    measured: Spread
    target: float
    at_most: bool = False
    digits: int = 2

    @property
    def reached(self) -> bool:
        return self.measured.median <= self.target if self.at_most else self.measured.median >= self.target

    @property
    def goal(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.target:g}"


def claims(results: Results) -> list[Claim]:
    """Those that this run has measured."""
    return [
        *_throughput(results.comparisons.get("throughput")),
        *_engines(results),
        *_latency(results.comparisons.get("latency")),
        *_akto(results.comparisons.get("akto")),
        *_cpu(results),
        *_streams(results),
        *_page(results),
        *_lookups(results),
        *_memory(results),
    ]


def _ratios(found: Comparison | None, wanted: Iterable[tuple[str, str, float, str]]) -> Iterator[Claim]:
    for name, to, target, text in wanted:
        if found is not None and found.has(name, to):
            yield Claim(text, found.ratio(name, to, rate), target)


def _throughput(found: Comparison | None) -> Iterator[Claim]:
    wanted = (
        ("full", "bare", 1.4, "throughput with the addon, full capture / mitmdump without any addon"),
        ("full", "off", 0.93, "throughput with capture / the same with capture off"),
        ("full", "threads", 1.0, "throughput with a process beside the proxy / with threads in it"),
        ("full", "no-spool", 0.90, "throughput with the spool / without"),
        ("proxy-1", "bare", 2.0, "throughput of moesif-proxy, 1 worker / mitmdump without any addon"),
        ("proxy-2", "proxy-1", 1.7, "throughput of moesif-proxy, 2 workers / 1 worker"),
    )
    yield from _ratios(found, wanted)
    if found is not None and found.has("proxy-2", "proxy-1"):
        # Load generator and upstream share the cores: what an exchange costs tells what a core for each worker gives.
        per_core = found.ratio("proxy-1", "proxy-2", cpu_us)
        doubled = Spread(2 * per_core.median, 2 * per_core.low, 2 * per_core.high)
        yield Claim("the same by CPU time for an exchange, as with a core for each worker", doubled, 1.7)


def _engines(results: Results) -> Iterator[Claim]:
    found = results.comparisons.get("engines")
    wanted = (
        ("proxy-1-off", "nginx", 0.2, "throughput of moesif-proxy, capture off / nginx as a plain proxy"),
        ("proxy-1", "nginx-lua", 1.0, "throughput of moesif-proxy, full capture / nginx with a logger in Lua"),
        ("proxy-1-off", "layers-1-off", 6.0, "throughput of the fast lane / mitmproxy's layers, capture off"),
        ("proxy-1", "layers-1", 4.0, "throughput of the fast lane / mitmproxy's layers, full capture"),
        ("proxy-1", "proxy-1-off", 0.75, "throughput of the fast lane with capture / without it"),
    )
    yield from _ratios(found, wanted)
    alone = results.comparisons.get("connections-1")
    if alone is not None and alone.has("proxy-1", "direct"):
        text = "p50 added by moesif-proxy on one connection, full capture, ms"
        yield Claim(text, alone.difference("proxy-1", "direct", at(50)), 0.15, at_most=True)


WITH_AND_WITHOUT = (("full", "off", "capture"), ("proxy-1", "proxy-1-off", "capture in moesif-proxy"))


def _latency(found: Comparison | None) -> Iterator[Claim]:
    for name, to, what in WITH_AND_WITHOUT:
        if found is not None and found.has(name, to):
            for quantile, target in ((50, 0.1), (99, 1.0)):
                text = f"added p{quantile} of {what} at half load, ms"
                yield Claim(text, found.difference(name, to, at(quantile)), target, at_most=True)


OF_AKTOS_PLUGIN = {50: 0.03, 95: 1.96, 99: 5.19}
"""Milliseconds that Akto publishes as added by its plugin for Kong."""


def _akto(found: Comparison | None) -> Iterator[Claim]:
    if found is None or not found.has("proxy-1", *(variant.name for variant in variants.AKTO)):
        return
    for name, state in zip((variant.name for variant in variants.AKTO), ("up", "slow", "gone"), strict=True):
        for quantile, target in ((50, 0.03), (95, 0.5), (99, 1.0)):
            theirs = OF_AKTOS_PLUGIN[quantile]
            text = f"added p{quantile} of Akto beside Moesif, {state}, ms (Akto's plugin: {theirs})"
            yield Claim(text, found.difference(name, "proxy-1", at(quantile)), target, at_most=True)
        if state == "up":
            added = found.difference(name, "proxy-1", cpu_us)
            yield Claim("CPU of Akto beside Moesif for an exchange, microseconds", added, 30, at_most=True, digits=0)


def _cpu(results: Results) -> Iterator[Claim]:
    for scenario, size, target in (("throughput", "1 KB", 60), ("size-100000", "100 KB", 300)):
        found = results.comparisons.get(scenario)
        for name, to, what in WITH_AND_WITHOUT:
            if found is not None and found.has(name, to):
                added = found.difference(name, to, cpu_us)
                text = f"CPU of {what} for an exchange of {size}, microseconds"
                yield Claim(text, added, target, at_most=True, digits=0)


def _streams(results: Results) -> Iterator[Claim]:
    if {"full", "bare-stream"} <= results.first_bytes.keys():
        added = difference(results.first_bytes["full"], results.first_bytes["bare-stream"])
        yield Claim("added time to the first byte of a stream, ms", added, 1.0, at_most=True)
    for way, found in results.transfers.items():
        speeds = {name: [transfer.megabytes_per_second for transfer in found[name]] for name in found}
        if {"proxy-1", "nginx"} <= speeds.keys():
            compared = ratio(speeds["proxy-1"], speeds["nginx"])
            yield Claim(f"speed of a large {way}, moesif-proxy / nginx", compared, 0.9)
        yield Claim(f"speed of a large {way} / without the addon", ratio(speeds["full"], speeds["bare-stream"]), 0.95)
        growth = Spread.of([transfer.growth / 1e6 for transfer in found["full"]])
        yield Claim(f"growth of memory in a large {way}, MB", growth, 30, at_most=True, digits=1)


def _page(results: Results) -> Iterator[Claim]:
    for what, target in ((PAINTED, 2000), (SHOWN_LATEST, 500)):
        if what in results.page:
            yield Claim(f"{what}, ms", Spread.of(results.page[what]), target, at_most=True, digits=0)
    found = results.comparisons.get("page")
    if found is not None and found.has("page", "admin"):
        text = "throughput while the traffic page follows / without it"
        yield Claim(text, found.ratio("page", "admin", rate), 0.95)
        text = "the same by CPU time for an exchange, as with cores of their own for page and browser"
        yield Claim(text, found.ratio("admin", "page", cpu_us), 0.95)
    if (keeping := results.part("keeping an exchange for who looks (1 KB)")) is not None:
        text = "CPU of keeping an exchange for who looks, microseconds"
        yield Claim(text, Spread.of([keeping]), 3.0, at_most=True)


def _lookups(results: Results) -> Iterator[Claim]:
    few, many = results.part("a lookup among 10 routes"), results.part("a lookup among 1,000 routes")
    if few and many:
        yield Claim("route lookup among 1,000 / among 10", Spread.of([many / few]), 3.0, at_most=True)
    if (deciding := results.part("deciding by 1,000 rules")) is not None:
        yield Claim("deciding by 1,000 rules, ms", Spread.of([deciding / 1000]), 1.0, at_most=True, digits=3)
    found = results.comparisons.get("rules")
    if found is not None:
        added = found.difference("rules", "full", at(50))
        yield Claim("added p50 of 1,000 rules at half load, ms", added, 1.0, at_most=True)


def _memory(results: Results) -> Iterator[Claim]:
    if results.memory is not None:
        text = f"growth of memory over {results.memory.exchanges:,} exchanges, MB"
        yield Claim(text, Spread.of([results.memory.growth / 1e6]), 5.0, at_most=True, digits=1)

"""What is measured from outside. A scenario adds to the results; the quick ones make the main table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import parts, proc, streams, variants
from tests.bench.load import Load, Request
from tests.bench.proxy import Proxy
from tests.bench.results import FILLED, PAINTED, SHOWN, SHOWN_LATEST, Comparison, Memory, Results
from tests.bench.services import Services
from tests.bench.turns import take_turns
from tests.bench.variants import Variant

ONE_KB = Request(1_000)
CONNECTIONS = 8
OPEN_LOOP_CONNECTIONS = 32
HALF = 0.5
MANY = 500
STREAMS_A_ROUND = 10
PIECES_A_ROUND = 100
SHOWN_A_ROUND = 20


@dataclass(frozen=True)
class Bench:
    """What every scenario needs. `seconds` of load for each variant in each round; `large` bytes pass as a stream."""

    services: Services
    folder: Path
    results: Results
    rounds: int
    seconds: int
    long_seconds: int
    exchanges: int
    large: int
    say: Callable[[str], None]

    def start(self, variant: Variant, upstream_port: int | None = None) -> Proxy:
        if variant.page:
            from tests.bench.page import Watched  # Playwright, which nothing else needs

            return Watched(variant, self.services, self.folder, upstream_port)
        return Proxy(variant, self.services, self.folder, upstream_port)

    def there(self, wanted: Sequence[Variant]) -> list[Variant]:
        for variant in wanted:
            if (reason := variants.missing(variant)) is not None:
                self.results.note(f"left out: {variant.title} ({reason})")
        return variants.there(wanted)


def compare(
    bench: Bench,
    name: str,
    title: str,
    wanted: Sequence[Variant],
    *,
    request: Request = ONE_KB,
    connections: int = CONNECTIONS,
    share: float | None = None,
) -> None:
    """Adds the comparison `name`: at saturation, or an open loop at a `share` of what the slowest variant can do."""
    there = bench.there(wanted)
    rate = None if share is None else share * _capacity(bench, there, request)
    # Latencies suffer most from what else goes on: twice as long, in shorter turns.
    passes = 1 if rate is None else 4
    seconds = bench.seconds / 2

    def load(proxy: Proxy, *, number: int) -> Load:
        if rate is None:
            return proxy.saturate(request, connections, int(seconds))
        return proxy.at_rate(request, connections, seconds / 2, rate, seed=number)

    def warm_up(proxy: Proxy) -> None:
        proxy.saturate(request, CONNECTIONS, 1)

    turns = take_turns(there, bench.rounds, bench.start, warm_up, load, passes=passes, say=bench.say)
    titles = {variant.name: variant.title for variant in there}
    bench.results.comparisons[name] = Comparison(title, titles, connections, rate, turns)
    bench.results.accounts += turns.accounts


def _capacity(bench: Bench, there: Sequence[Variant], request: Request) -> float:
    """Requests a second that the slowest of these takes; from the comparison at saturation where that was made."""
    known = bench.results.comparisons.get("throughput")
    if known is not None and request == ONE_KB and known.has(*(variant.name for variant in there)):
        return min(known.spread(variant.name, lambda sample: sample.rate).median for variant in there)
    bench.say("  looking for the rate")
    rates = []
    for variant in there:
        with bench.start(variant) as proxy:
            proxy.saturate(request, CONNECTIONS, 1)
            load = proxy.saturate(request, CONNECTIONS, 2)
            rates.append(load.requests / load.seconds)
    return min(rates)


def throughput(bench: Bench) -> None:
    wanted = (
        variants.BARE,
        variants.OFF,
        variants.FULL,
        variants.THREADS,
        variants.NO_SPOOL,
        variants.MASKED,
        variants.NO_TABLE,
        variants.ONE_WORKER_OFF,
        variants.ONE_WORKER,
        variants.TWO_WORKERS,
    )
    compare(bench, "throughput", "1 KB JSON, 8 connections, at saturation", wanted)


BESIDE = (
    variants.NGINX,
    variants.NGINX_LUA,
    variants.LAYERED_OFF,
    variants.LAYERED,
    variants.ONE_WORKER_OFF,
    variants.ONE_WORKER,
)


def engines(bench: Bench) -> None:
    compare(bench, "engines", "1 KB JSON, 8 connections, at saturation: beside nginx", (*BESIDE, variants.TWO_WORKERS))


def latency(bench: Bench) -> None:
    wanted = (
        variants.BARE,
        variants.OFF,
        variants.FULL,
        variants.THREADS,
        variants.ONE_WORKER_OFF,
        variants.ONE_WORKER,
    )
    title = "1 KB JSON, open loop at half of what the slowest variant can do"
    compare(bench, "latency", title, wanted, connections=OPEN_LOOP_CONNECTIONS, share=HALF)


def loads(bench: Bench) -> None:
    for share in (0.1, 0.5, 0.8):
        title = f"1 KB JSON, open loop at {share:.0%} of what the slowest variant can do"
        wanted = (variants.NGINX, variants.ONE_WORKER_OFF, variants.ONE_WORKER)
        compare(bench, f"load-{share:.0%}", title, wanted, connections=OPEN_LOOP_CONNECTIONS, share=share)


def akto(bench: Bench) -> None:
    """What a second receiver adds, in whatever state it is."""
    title = "1 KB JSON, open loop at half of what the slowest variant can do: Akto beside Moesif"
    wanted = (variants.ONE_WORKER, *variants.AKTO)
    compare(bench, "akto", title, wanted, connections=OPEN_LOOP_CONNECTIONS, share=HALF)


def tls(bench: Bench) -> None:
    wanted = (variants.NGINX, variants.LAYERED, variants.ONE_WORKER_OFF, variants.ONE_WORKER)
    for where, in_front, behind in (("in front", True, False), ("behind", False, True), ("on both sides", True, True)):
        title = f"1 KB JSON, 8 connections, at saturation: TLS {where}"
        secured = [variants.secured(variant, in_front=in_front, behind=behind) for variant in wanted]
        compare(bench, f"tls-{where}", title, secured)


def sizes(bench: Bench) -> None:
    wanted = (variants.BARE, variants.OFF, variants.FULL, variants.MASKED, *BESIDE)
    for size, label in ((200, "200 B"), (10_000, "10 KB"), (100_000, "100 KB")):
        title = f"{label} JSON, 8 connections, at saturation"
        compare(bench, f"size-{size}", title, wanted, request=Request(size))


def both_ways(bench: Bench) -> None:
    wanted = (variants.BARE, variants.OFF, variants.FULL, variants.MASKED)
    title = "POST of 1 KB JSON, answered with 1 KB, 8 connections, at saturation"
    compare(bench, "both-ways", title, wanted, request=Request(1_000, both=True))


def connections(bench: Bench) -> None:
    for count in (1, 64, 500):
        wanted = (variants.DIRECT, *BESIDE) if count == 1 else BESIDE
        title = f"1 KB JSON, {count} connection{'s' if count > 1 else ''}, at saturation"
        compare(bench, f"connections-{count}", title, wanted, connections=count)


def collectors(bench: Bench) -> None:
    wanted = (variants.FULL, variants.SLOW, variants.DOWN)
    compare(bench, "collectors", "1 KB JSON, 8 connections, at saturation: the collector", wanted)


def rules(bench: Bench) -> None:
    wanted = (variants.FULL, variants.RULES)
    title = "1 KB JSON, open loop at half load: 1,000 rules with two conditions each"
    compare(bench, "rules", title, wanted, connections=OPEN_LOOP_CONNECTIONS, share=HALF)


def first_bytes(bench: Bench) -> None:
    """Time to the first byte; mitmdump without streaming is there to show what it is about."""
    wanted = (variants.BARE_STREAM, variants.FULL, variants.BARE)
    _medians(bench, wanted, streams.first_bytes, 2, STREAMS_A_ROUND, bench.results.first_bytes)


def pieces(bench: Bench) -> None:
    """Heads and bodies in writes of their own, as most servers make them: nothing may wait for an acknowledgement."""
    wanted = (variants.BARE_STREAM, variants.FULL, variants.ONE_WORKER, variants.LAYERED)
    _medians(bench, wanted, streams.in_pieces, 5, PIECES_A_ROUND, bench.results.pieces)


def _medians(
    bench: Bench,
    wanted: Sequence[Variant],
    measure: Callable[[Sequence[Proxy], int], dict[str, list[float]]],
    warm_up: int,
    count: int,
    into: dict[str, list[float]],
) -> None:
    """Adds the median of `count` measurements of each round, by the variant's name."""
    there = bench.there(wanted)
    for number in range(bench.rounds):
        with ExitStack() as running:
            proxies = [running.enter_context(bench.start(variant, bench.services.stream_port)) for variant in there]
            measure(proxies, warm_up)
            for name, values in measure(proxies, count).items():
                into.setdefault(name, []).append(median(values))
            _close_accounts(bench, proxies)
        bench.say(f"  round {number + 1} of {bench.rounds}")


def bulk(bench: Bench) -> None:
    there = bench.there((variants.NGINX, variants.BARE_STREAM, variants.FULL, variants.ONE_WORKER))
    ways = {"download": streams.download, "upload": streams.upload}
    for number in range(bench.rounds):
        with ExitStack() as running:
            proxies = [running.enter_context(bench.start(variant, bench.services.stream_port)) for variant in there]
            for way, transfer in ways.items():
                for proxy in proxies if number % 2 == 0 else reversed(proxies):
                    transfer(proxy, 10_000_000)
                    done = transfer(proxy, bench.large)
                    by_variant = bench.results.transfers.setdefault(way, {})
                    by_variant.setdefault(proxy.variant.name, []).append(done)
            _close_accounts(bench, proxies)
        bench.say(f"  round {number + 1} of {bench.rounds}")


def _close_accounts(bench: Bench, proxies: Sequence[Proxy]) -> None:
    for proxy in proxies:
        account = proxy.stop()
        if account is not None:
            bench.results.accounts.append(account)


def saturation(bench: Bench) -> None:
    """One long stretch: nothing may be unaccounted for."""
    for variant in bench.there((variants.FULL, variants.ONE_WORKER, variants.TWO_WORKERS)):
        with bench.start(variant) as proxy:
            load = proxy.saturate(ONE_KB, MANY, bench.long_seconds)
            bench.say(f"  {variant.name}: {load.requests} requests in {load.seconds:.0f} s")
            _close_accounts(bench, [proxy])


def memory(bench: Bench) -> None:
    readings: list[tuple[int, int]] = []
    done = 0
    with bench.start(variants.FULL) as proxy:
        while done < bench.exchanges:
            done += proxy.saturate(ONE_KB, CONNECTIONS, min(10, bench.long_seconds)).requests
            proxy.settle()
            if done >= bench.exchanges / 10:
                readings.append((done, proc.resident_bytes(proxy.pid)))
            bench.say(f"  {done} exchanges, {proc.resident_bytes(proxy.pid) / 1e6:.1f} MB")
        _close_accounts(bench, [proxy])
    bench.results.memory = Memory(readings)


def page(bench: Bench) -> None:
    """What its user waits for, and what it costs the traffic that somebody looks."""
    from tests.bench.page import Watched

    compare(
        bench, "page", "1 KB JSON, 8 connections, at saturation: somebody looks", (variants.LISTENED, variants.WATCHED)
    )
    for number in range(bench.rounds if bench.there([variants.WATCHED]) else 0):
        with bench.start(variants.WATCHED) as proxy:
            assert isinstance(proxy, Watched)
            proxy.saturate(ONE_KB, CONNECTIONS, 1)
            painted, filled = proxy.paints()
            shown = [proxy.shows(f"{ONE_KB.target}&seen={number}-{each}") for each in range(SHOWN_A_ROUND)]
            figures = {PAINTED: painted, FILLED: filled, SHOWN: median(shown), SHOWN_LATEST: max(shown)}
            for name, value in figures.items():
                bench.results.page.setdefault(name, []).append(value)
            _close_accounts(bench, [proxy])
        bench.say(f"  round {number + 1} of {bench.rounds}: {', '.join(f'{v:.0f} ms' for v in figures.values())}")


def isolated(bench: Bench) -> None:
    spools = bench.folder / f"parts-{time.monotonic_ns()}"
    for part in parts.all_parts(bench.services.collector("up"), spools):
        bench.results.parts.append(part)
        bench.say(f"  {part.name}: {part.median:.1f} us")


@dataclass(frozen=True)
class Scenario:
    title: str
    run: Callable[[Bench], None]
    quick: bool = False


SCENARIOS = {
    "throughput": Scenario("saturation, 1 KB, all variants", throughput, quick=True),
    "engines": Scenario("the fast lane and mitmproxy's layers beside nginx", engines, quick=True),
    "latency": Scenario("open loop at half load", latency, quick=True),
    "streams": Scenario("time to the first byte of a stream", first_bytes, quick=True),
    "pieces": Scenario("uploads and answers in pieces", pieces, quick=True),
    "page": Scenario("the traffic page: paint, exchanges shown, cost of a follower", page, quick=True),
    "parts": Scenario("the addon's parts, the rules and the router in isolation", isolated, quick=True),
    "sizes": Scenario("200 B, 10 KB, 100 KB, with masks and without", sizes),
    "both-ways": Scenario("1 KB in the request as well", both_ways),
    "connections": Scenario("1, 64 and 500 connections", connections),
    "loads": Scenario("open loop at 10, 50 and 80 % of capacity", loads),
    "tls": Scenario("TLS in front, behind, and on both sides", tls),
    "akto": Scenario("Akto beside Moesif, up, slow and gone", akto),
    "collectors": Scenario("collector up, slow and down", collectors),
    "rules": Scenario("1,000 rules on the request path", rules),
    "bulk": Scenario("a gigabyte down and up: speed and memory", bulk),
    "saturation": Scenario("a minute at saturation: is every event accounted for?", saturation),
    "memory": Scenario("memory over 200,000 exchanges", memory),
}

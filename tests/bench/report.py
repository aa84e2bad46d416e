"""The run as Markdown for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tests.bench.claims import claims
from tests.bench.results import Comparison, Results
from tests.bench.stats import Spread, difference, ratio
from tests.bench.turns import at, cores, cpu_us, loop_us, rate

SATURATED: tuple[str, ...] = (
    "",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU us",
    "cores",
    "throughput, ratio",
    "CPU us added",
    "of it in the loop",
)
AT_RATE: tuple[str, ...] = ("", "p50 ms", "p95 ms", "p99 ms", "CPU us", "p50 added", "p95 added", "p99 added")

LATE = 5.0
"""Milliseconds that the client may be late before it is said."""


def markdown(results: Results) -> str:
    """Tables, with date, machine and versions."""
    blocks = [_heading(results), _claims(results)]
    blocks += [_comparison(found) for found in results.comparisons.values()]
    if results.first_bytes:
        head = ("slow server-sent events", "ms to the first byte", "added")
        blocks.append(f"### Time to the first byte of a stream\n\n{table(head, _added(results.first_bytes))}")
    if results.pieces:
        head = ("heads and bodies in two writes each", "ms for an exchange", "added")
        blocks.append(f"### Uploads and answers in pieces\n\n{table(head, _added(results.pieces))}")
    if results.page:
        waits = [(what, Spread.of(values).text(0)) for what, values in results.page.items()]
        blocks.append(f"### The traffic page\n\n{table(('in headless Chromium', 'ms'), waits)}")
    if results.transfers:
        blocks.append(_transfers(results))
    if results.parts:
        rows = [(part.name, f"{part.median:.1f}", f"{part.best:.1f}") for part in results.parts]
        head = ("in isolation", "microseconds of CPU, median", "quickest")
        blocks.append(f"### The addon's parts\n\n{table(head, rows)}")
    if results.accounts:
        blocks.append(_accounts(results))
    blocks.append("\n".join(f"- {note}" for note in results.notes))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _heading(results: Results) -> str:
    machine = results.machine
    return (
        f"Measured {machine['date']} on {machine['cpu']}, {machine['kernel']}; Python {machine['python']}, "
        f"mitmproxy {machine['mitmproxy']}, mitmproxy-moesif {machine['addon']}, upstream {machine['upstream']}, "
        f"load by {machine['load']}; {machine['busy']}. Median [smallest - largest] of {results.rounds} rounds, "
        f"{results.seconds} s each, ratios and differences round by round. Proxy, upstream, collector and load "
        "generator share the cores."
    )


def _claims(results: Results) -> str:
    rows = [
        (claim.text, claim.measured.text(claim.digits), claim.goal, "yes" if claim.reached else "**no**")
        for claim in claims(results)
    ]
    return f"### Goals\n\n{table(('', 'measured', 'goal', 'reached'), rows)}" if rows else ""


def _comparison(found: Comparison) -> str:
    head, row, told = SATURATED, _saturated, ""
    if found.rate is not None:
        head, row = AT_RATE, _at_rate
        told = f" ({found.rate:.0f} requests/s, over at most {found.connections} connections)"
    return f"### {found.title}{told}\n\n{table(head, [row(found, name) for name in found.titles])}{_remarks(found)}"


def _saturated(found: Comparison, name: str) -> tuple[str, ...]:
    figures = (
        found.titles[name],
        f"{found.spread(name, rate).median:.0f}",
        *(f"{found.spread(name, at(quantile)).median:.2f}" for quantile in (50, 99)),
        f"{found.spread(name, cpu_us).median:.0f}",
        f"{found.spread(name, cores).median:.2f}",
    )
    if name == found.base:
        return (*figures, "1", "", "")
    return (
        *figures,
        found.ratio(name, found.base, rate).text(),
        found.difference(name, found.base, cpu_us).text(0),
        found.difference(name, found.base, loop_us).text(0),
    )


def _at_rate(found: Comparison, name: str) -> tuple[str, ...]:
    figures = (
        found.titles[name],
        *(f"{found.spread(name, at(quantile)).median:.2f}" for quantile in (50, 95, 99)),
        f"{found.spread(name, cpu_us).median:.0f}",
    )
    if name == found.base:
        return (*figures, "", "", "")
    return (*figures, *(found.difference(name, found.base, at(quantile)).text() for quantile in (50, 95, 99)))


def _remarks(found: Comparison) -> str:
    """Errors, work left for later, and a client that could not keep time spoil figures: they are said."""
    remarks = []
    for name, samples in found.turns.samples.items():
        if errors := sum(sample.errors for sample in samples):
            remarks.append(f"{found.titles[name]}: {errors} requests failed.")
        if (behind := max(sample.behind for sample in samples)) > 1:
            remarks.append(f"{found.titles[name]}: worked on for up to {behind:.1f} s after the load had ended.")
    late = max(sample.late for samples in found.turns.samples.values() for sample in samples)
    if late > LATE:
        remarks.append(f"The client itself was up to {late:.1f} ms late (p99): this machine is too busy for latencies.")
    return "".join(f"\n\n{remark}" for remark in remarks)


def _added(measured: dict[str, list[float]]) -> list[tuple[str, str, str]]:
    bare = measured["bare-stream"]
    return [(name, Spread.of(values).text(), difference(values, bare).text()) for name, values in measured.items()]


def _transfers(results: Results) -> str:
    rows = []
    for way, found in results.transfers.items():
        speeds = {name: [transfer.megabytes_per_second for transfer in found[name]] for name in found}
        for name, transfers in found.items():
            rows.append(
                (
                    f"{way} of {transfers[0].bytes / 1e6:.0f} MB, {name}",
                    f"{Spread.of(speeds[name]).median:.0f}",
                    ratio(speeds[name], speeds["bare-stream"]).text(),
                    Spread.of([transfer.growth / 1e6 for transfer in transfers]).text(1),
                )
            )
    head = ("", "MB/s", "of bare-stream", "growth of memory, MB")
    return f"### Large bodies\n\n{table(head, rows)}"


def _accounts(results: Results) -> str:
    failed = [account for account in results.accounts if not account.holds]
    sent = sum(account.sent for account in results.accounts)
    captured = sum(account.captured for account in results.accounts)
    said = (
        f"Accounting: {len(results.accounts)} runs of a capturing proxy, {sent:,} answered requests, {captured:,} "
        f"captured (with those cut off at the end of a load); captured = delivered + waiting + dropped in "
        f"{'all of them' if not failed else f'all but {len(failed)}'}."
    )
    return "\n".join([said, *(f"- {account.text()}" for account in failed)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned in the source as well."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def lines() -> Iterator[str]:
        yield _line(head, widths)
        yield "| " + " | ".join("-" * width for width in widths) + " |"
        for row in rows:
            yield _line(row, widths)

    return "\n".join(lines())


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def as_json(results: Results) -> dict[str, Any]:
    """Everything, with each round's figures."""
    return {
        **asdict(results),
        "claims": [{**asdict(claim), "goal": claim.goal, "reached": claim.reached} for claim in claims(results)],
        "comparisons": {name: _samples(found) for name, found in results.comparisons.items()},
        "accounts": [{**asdict(account), "holds": account.holds} for account in results.accounts],
    }


def _samples(found: Comparison) -> dict[str, Any]:
    return {
        "title": found.title,
        "connections": found.connections,
        "rate": found.rate,
        "variants": {
            name: {"title": found.titles[name], "rounds": [asdict(sample) for sample in samples]}
            for name, samples in found.turns.samples.items()
        },
    }

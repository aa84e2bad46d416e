"""The main figures as an SVG, written by hand: bars with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tests.bench.results import Comparison, Results
from tests.bench.stats import Spread
from tests.bench.turns import at, cpu_us, rate

WIDTH, LABEL, BAR, ROW, TITLE = 860, 300, 400, 26, 44
BLUE, ORANGE, GREY = "#3b6ea8", "#d98e32", "#8a8f98"


@dataclass(frozen=True)
class Bar:
    label: str
    value: Spread
    colour: str
    text: str


@dataclass(frozen=True)
class Panel:
    """Bars on one scale; `mark` is a line across them (what they are compared with)."""

    title: str
    bars: Sequence[Bar]
    mark: float | None = None

    @property
    def height(self) -> int:
        return TITLE + ROW * len(self.bars) + 12


def svg(results: Results) -> str:
    """The picture; an empty one where nothing of this was measured."""
    panels = [*_throughput(results.comparisons.get("throughput")), *_latency(results.comparisons.get("latency"))]
    height = sum(panel.height for panel in panels) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        '<g font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    top = 0
    for panel in panels:
        parts += _drawn(panel, top)
        top += panel.height
    machine = f"{results.machine['date']}, {results.machine['cpu']}, mitmproxy {results.machine['mitmproxy']}"
    parts.append(f'<text x="12" y="{height - 10}" fill="{GREY}" font-size="11">{escape(machine)}</text>')
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def _throughput(found: Comparison | None) -> list[Panel]:
    if found is None:
        return []
    ratios, costs = [], []
    for name, title in found.titles.items():
        is_base = name == found.base
        ratio, cost = found.ratio(name, found.base, rate), found.spread(name, cpu_us)
        ratios.append(Bar(title, ratio, GREY if is_base else BLUE, ratio.text()))
        costs.append(Bar(title, cost, GREY if is_base else ORANGE, cost.text(0)))
    return [
        Panel(f"Throughput, of {found.titles[found.base]} ({found.title})", ratios, mark=1.0),
        Panel("CPU for an exchange, all threads, microseconds", costs),
    ]


def _latency(found: Comparison | None) -> list[Panel]:
    return [] if found is None else [_quantile(found, quantile) for quantile in (50, 99)]


def _quantile(found: Comparison, quantile: int) -> Panel:
    spreads = {name: found.spread(name, at(quantile)) for name in found.titles}
    bars = [
        Bar(title, spreads[name], GREY if name == found.base else BLUE, spreads[name].text())
        for name, title in found.titles.items()
    ]
    return Panel(f"p{quantile} at {found.rate or 0:.0f} requests/s, open loop, ms", bars)


def _drawn(panel: Panel, top: int) -> list[str]:
    scale = BAR / (max((bar.value.high for bar in panel.bars), default=1.0) or 1.0)
    parts = [f'<text x="12" y="{top + 26}" font-weight="600">{escape(panel.title)}</text>']
    for number, bar in enumerate(panel.bars):
        parts += _bar(bar, top + TITLE + number * ROW, scale)
    if panel.mark is not None:
        x = LABEL + panel.mark * scale
        bottom = top + TITLE + ROW * len(panel.bars)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + TITLE - 4}" y2="{bottom}" stroke="{GREY}"/>')
    return parts


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    middle = y + ROW / 2 - 3
    low, high = (LABEL + value * scale for value in (bar.value.low, bar.value.high))
    width = max(0.0, bar.value.median * scale)
    return [
        f'<text x="{LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{ROW - 7}" fill="{bar.colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black" stroke-width="1.5"/>',
        f'<text x="{max(high, LABEL) + 8:.1f}" y="{middle + 4:.1f}" fill="{GREY}">{escape(bar.text)}</text>',
    ]

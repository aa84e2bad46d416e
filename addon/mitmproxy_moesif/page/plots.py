"""The charts of the overview, as options for ECharts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mitmproxy_moesif.recent.api import Share, Stats

FEW = 3
"""Below this number of intervals, symbols are shown, since there is hardly a line."""

LABEL = {"color": "#888"}
"""Readable on light and dark pages."""

RED, GREEN, YELLOW, BLUE = "#e05252", "#4caf7a", "#e0a83c", "#4a90d9"


def traffic(stats: Stats) -> dict[str, Any]:
    return _over_time(stats, "Exchanges and errors", [("exchanges", "count", BLUE), ("errors", "errors", RED)])


def delivery(stats: Stats) -> dict[str, Any]:
    series = [("sent", "sent", GREEN), ("waiting", "waiting", YELLOW), ("dropped", "dropped", RED)]
    return _over_time(stats, "Delivery", series)


def _over_time(stats: Stats, title: str, series: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    rows: Sequence[Any] = stats["over_time"]
    line = {"type": "line", "showSymbol": len(rows) < FEW}
    drawn = [line | {"name": name, "color": color, "data": [row[key] for row in rows]} for name, key, color in series]
    return _chart(title, [row["time"][11:19] for row in rows], drawn)


def latency(stats: Stats) -> dict[str, Any]:
    rows: Sequence[Any] = stats["routes"]
    series = [{"name": name, "type": "bar", "data": [row[name] for row in rows]} for name in ("p50", "p95", "p99")]
    return _chart("Milliseconds by route", [row["route"] for row in rows], series)


def shares(title: str, found: Sequence[Share]) -> dict[str, Any]:
    bars = {"type": "bar", "barMaxWidth": 60, "color": BLUE, "data": [share["count"] for share in found]}
    return _chart(title, [share["name"] for share in found], [bars])


def _chart(title: str, names: Sequence[str], series: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": {"text": title, "left": 0, "textStyle": LABEL | {"fontSize": 13}},
        "tooltip": {"trigger": "axis", "renderMode": "richText"},
        "legend": {"right": 0, "top": 0, "textStyle": LABEL},
        "grid": {"left": 50, "right": 15, "top": 40, "bottom": 30},
        "xAxis": {"type": "category", "data": list(names), "axisLabel": LABEL | {"width": 120, "overflow": "truncate"}},
        "yAxis": {
            "type": "value",
            "minInterval": 1,
            "splitLine": {"lineStyle": {"color": "#8884"}},
            "axisLabel": LABEL,
        },
        "animation": False,
        "series": series,
    }


def all_of(stats: Stats) -> list[dict[str, Any]]:
    return [
        traffic(stats),
        delivery(stats),
        latency(stats),
        shares("Status", sorted(stats["statuses"], key=lambda share: share["name"])),
        shares("Users", stats["users"]),
        shares("Companies", stats["companies"]),
    ]

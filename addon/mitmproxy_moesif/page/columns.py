"""The columns of the list, and which of them fit."""

from __future__ import annotations

import json
from typing import Any, Final


def _column(name: str, field: str, width: int, **more: Any) -> dict[str, Any]:
    return {"headerName": name, "field": field, "width": width, "tooltipField": field, **more}


COLUMNS: Final = [
    _column("time", "time", 115),
    _column("method", "method", 85),
    _column("status", "status", 75, cellClassRules={"bad": "x >= 500", "poor": "x >= 400 && x < 500"}),
    _column("host and path", "path", 180, flex=1, minWidth=130),
    _column("route", "route", 110),
    _column("user", "user", 110),
    _column("company", "company", 110),
    _column("ms", "ms", 80, type="rightAligned"),
    _column("bytes", "size", 90, type="rightAligned"),
    _column("delivery", "state", 140),
]
FIRST: Final = ("time", "method", "status", "path", "state", "ms", "user", "company", "route", "size")
"""Columns by descending priority; those that do not fit are named below the list."""

ALWAYS: Final = FIRST[:4]

FIT: Final = f"""params => {{
  const columns = {json.dumps({column["field"]: column for column in COLUMNS})};
  const told = document.querySelector(".hidden-columns");
  if (told === null) return;  // another tab is open
  let room = params.clientWidth;
  const fits = field => (room -= columns[field].width) >= 0 || {json.dumps(ALWAYS)}.includes(field);
  const hidden = {json.dumps(FIRST)}.filter(field => !fits(field));
  params.api.setColumnsVisible(Object.keys(columns).filter(field => !hidden.includes(field)), true);
  params.api.setColumnsVisible(hidden, false);
  const names = hidden.map(field => columns[field].headerName).join(", ");
  told.textContent = names && `no room for: ${{names}}`;
}}"""
"""JavaScript that AG Grid runs when its size changes."""

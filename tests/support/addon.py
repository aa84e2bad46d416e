"""The addon's options for a test: its account, a collector, and as little waiting as possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import APPLICATION_ID
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Option


def addon_options(collector: ScriptedCollector | None = None, **parameters: Option) -> dict[str, Option]:
    """`moesif_*` options from parameters; what a case needs anyway is added."""
    given: dict[str, Option] = {"application_id": APPLICATION_ID, "flush_interval": 50, **parameters}
    if collector is not None:
        given.setdefault("api_endpoint", collector.url)
    return {f"moesif_{name}": value for name, value in given.items()}


def only_event(collector: ScriptedCollector) -> Event:
    """The one event that the collector has or is about to get."""
    events = collector.wait_for(1)
    assert len(events) == 1
    return events[0]


def exit_counts(output: str) -> dict[str, Any]:
    """The numbers of the exit line, the causes under `causes`."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("moesif: captured "))
    counts, _, causes = line.removeprefix("moesif: ").rstrip(")").partition(" (")
    numbers: dict[str, Any] = {word: int(number) for word, number in (part.split(" ") for part in counts.split(", "))}
    numbers["causes"] = {word: int(number) for word, number in (part.split(" ") for part in causes.split(", ") if part)}
    return numbers


def option_changer(folder: Path) -> Path:
    """A script that sets the option a request names in `X-Change`, and answers `taken` or why it was refused."""
    script = folder / "changer.py"
    script.write_text(_CHANGER)
    return script


_CHANGER = """
from mitmproxy import ctx, exceptions, http

def request(flow):
    change = flow.request.headers.get("x-change")
    if change:
        name, _, value = change.partition("=")
        try:
            ctx.options.set(f"{name}={value}")
            answer = "taken"
        except exceptions.OptionsError as error:
            answer = str(error)
        flow.response = http.Response.make(200, answer.encode())
"""

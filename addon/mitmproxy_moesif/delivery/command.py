"""`moesif-proxy spool`: what waits on disk, and what is to become of what nobody sends.

moesif-proxy spool list
moesif-proxy spool retry NAME        (quarantined events are sent again)
moesif-proxy spool drop NAME         (counted as dropped: discarded)
moesif-proxy spool assign NAME TO    (they are sent as TO's events are)
moesif-proxy spool send              (what ended processes left, as the environment's MOESIF_... parameters say)
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mitmproxy_moesif.config.destination import base_of, quarantine_of
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.delivery.pipeline import Pipeline, state_of
from mitmproxy_moesif.delivery.spool.decisions import Decision, add
from mitmproxy_moesif.delivery.spool.file import SpoolError, contents_of
from mitmproxy_moesif.event.pipeline import EventBuilder
from mitmproxy_moesif.governance.sampler import Sampler
from mitmproxy_moesif.governance.snapshot import Snapshot

DEFAULT = "~/.mitmproxy/moesif-spool"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 with one line on stderr."""
    given = _parser().parse_args(arguments)
    folder = Path(given.folder).expanduser()
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        return _carry_out(given, folder)
    except (OSError, ValueError, SpoolError, SettingsError) as error:
        sys.stderr.write(f"moesif: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moesif-proxy spool", description="What waits on disk.")
    folder = os.environ.get("MOESIF_SPOOL_DIR") or DEFAULT
    parser.add_argument("--folder", default=folder, help="where the spool lies (MOESIF_SPOOL_DIR, %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="events that ended processes left, by destination")
    for name, text in (("retry", "send quarantined events again"), ("drop", "drop events, and count them")):
        commands.add_parser(name, help=text).add_argument("name", help="a destination, as list or /status tells it")
    assign = commands.add_parser("assign", help="send events as those of another destination")
    assign.add_argument("name", help="the destination that they wait for")
    assign.add_argument("to", help="the destination that they shall wait for")
    send = commands.add_parser("send", help="send what ended processes left, as MOESIF_... parameters say")
    send.add_argument("--seconds", type=float, default=60, help="at most so long (60)")
    return parser


def _carry_out(given: argparse.Namespace, folder: Path) -> int:
    match given.command:
        case "list":
            return _list(folder)
        case "send":
            return _send(folder, given.seconds)
        case "retry":
            base = base_of(given.name)
            return _decide(folder, quarantine_of(base), base)
        case "assign":
            return _decide(folder, given.name, given.to)
    return _decide(folder, given.name, None)


def _list(folder: Path) -> int:
    found = defaultdict[str, list[tuple[int, float]]](list)
    for path in sorted(folder.glob("spool-*.sqlite")):
        try:
            rows = contents_of(path)
        except (OSError, SpoolError) as error:
            sys.stdout.write(f"{path.name}: {error}\n")
            continue
        if rows is None:
            sys.stdout.write(f"{path.name} belongs to a process that runs: its /status tells what waits\n")
        for row in rows or ():
            found[row.destination].append((row.count, row.created))
    for name, rows_of in sorted(found.items()):
        events, since = sum(count for count, _ in rows_of), min(created for _, created in rows_of)
        state = "quarantined" if state_of(name) == "quarantined" else "waiting"
        sys.stdout.write(f"{name}  {events} events {state} since {_time(since)}\n")
    return 0


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _decide(folder: Path, name: str, to: str | None) -> int:
    add(folder, Decision(name, to, time.time()))
    sys.stdout.write("noted: a proxy that runs does it within seconds, else the next one that starts\n")
    return 0


def _send(folder: Path, seconds: float) -> int:
    settings = parse_settings(given_environment(os.environ))
    maker = EventBuilder(Sampler(lambda _: Snapshot()), lambda *_: None)
    pipeline = Pipeline(folder, settings.spool_max_bytes, maker, lambda *_: None, apart=True)
    pipeline.start()
    pipeline.configure([Instance.compile(settings)])
    pipeline.look(seconds)
    pipeline.drain(seconds)
    reading = pipeline.reading()
    pipeline.close()
    sys.stdout.write(f"{reading.line()}\n")
    return 0

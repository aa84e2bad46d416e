"""`moesif-proxy spool`: lists the events on disk, and decides about those that nobody sends.

moesif-proxy spool list
moesif-proxy spool retry NAME        (quarantined events are sent again)
moesif-proxy spool drop NAME         (counted as dropped: discarded)
moesif-proxy spool assign NAME TO    (sent like TO's events)
moesif-proxy spool send              (sends what ended processes left, to the receiver set by MOESIF_... parameters)

`--folder` names the spool's folder, before or after the command.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.config.arguments import OneLineParser, some_seconds
from mitmproxy_moesif.config.destination import base_of, is_destination, is_quarantine, quarantine_of
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.config.text import number_of, reason_of
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.delivery.spool.decisions import Decision, add
from mitmproxy_moesif.delivery.spool.file import ChunkInfo, SpoolError, contents_of
from mitmproxy_moesif.event.pipeline import EventBuilder
from mitmproxy_moesif.governance.sampler import Sampler
from mitmproxy_moesif.governance.snapshot import Snapshot

DEFAULT = "~/.mitmproxy/moesif-spool"
BACKFILL = "backfill"
"""The subfolder of the spool's folder that `moesif-proxy backfill` uses."""


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 with one line on stderr, also if `send` leaves events unsent."""
    given = _parser().parse_args(arguments)
    folder = expanded(given.folder)
    try:
        if given.folder == "off":
            raise ValueError("spool_dir is off, so that nothing is on disk; --folder names another folder")
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        return _carry_out(given, folder)
    except (OSError, ValueError, SpoolError, SettingsError) as error:
        sys.stderr.write(f"moesif: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    folder = os.environ.get("MOESIF_SPOOL_DIR") or DEFAULT
    parser = OneLineParser(prog="moesif-proxy spool", description="What waits on disk.")
    parser.add_argument("--folder", default=folder, help=f"where the spool is (MOESIF_SPOOL_DIR, {DEFAULT})")
    anywhere = OneLineParser(add_help=False)
    anywhere.add_argument("--folder", default=argparse.SUPPRESS, help="the same as before the command")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[anywhere])

    add("list", "events that ended processes left, by destination")
    for name, text in (("retry", "send quarantined events again"), ("drop", "drop events, and count them")):
        add(name, text).add_argument("name", help="a destination, as list or /status tells it")
    assign = add("assign", "send events as those of another destination")
    assign.add_argument("name", help="the destination that they wait for")
    assign.add_argument("to", help="the destination that they shall wait for")
    send = add("send", "send what ended processes left, as MOESIF_... parameters say")
    send.add_argument(
        "--timeout", type=some_seconds, default=60.0, metavar="SECONDS", help="try for at most so long (60)"
    )
    return parser


def _carry_out(given: argparse.Namespace, folder: Path) -> int:
    match given.command:
        case "list":
            return _list(folder)
        case "send":
            return _send(folder, given.timeout)
        case "retry":
            base = base_of(given.name)
            return _decide(folder, quarantine_of(base), base, given.name)
        case "assign":
            return _decide(folder, given.name, given.to, given.name)
    return _decide(folder, given.name, None, given.name)


def _list(folder: Path) -> int:
    """List the folder, and the subfolder of `backfill`."""
    places = [each for each in (folder, folder / BACKFILL) if each == folder or any(each.glob("spool-*.sqlite"))]
    waits = [_list_one(each, "" if each == folder else f" (in {each})") for each in places]
    if not any(waits):
        sys.stdout.write(f"nothing waits in {folder}\n")
    return 0


def _list_one(folder: Path, place: str) -> bool:
    found, running = _look(folder)
    for file in running:
        sys.stdout.write(f"{file} belongs to a process that runs: its /status tells what waits{place}\n")
    for name, rows in sorted(found.items()):
        events, since = sum(row.count for row in rows), _time(min(row.created for row in rows))
        state = "quarantined" if is_quarantine(name) else "waiting"
        sys.stdout.write(f"{name}  {number_of(events, 'event')} {state} since {since}{place}\n")
    return bool(found or running)


def _look(folder: Path) -> tuple[Mapping[str, Sequence[ChunkInfo]], Sequence[str]]:
    """What ended processes left, by destination, and the files of running ones. Reports unreadable files on stderr."""
    found, running = defaultdict[str, list[ChunkInfo]](list), []
    for path in sorted(folder.glob("spool-*.sqlite")):
        try:
            rows = contents_of(path)
        except (OSError, SpoolError) as error:
            sys.stderr.write(f"moesif: {path.name}: {reason_of(error)}\n")
            continue
        if rows is None:
            running.append(path.name)
        for row in rows or ():
            found[row.destination].append(row)
    return found, running


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _decide(folder: Path, name: str, to: str | None, given: str) -> int:
    """Record the decision to move the events of `name` to `to`, or to drop them. `given` is the name as typed.

    A running process's file cannot be read. So if there is one, `name` only has to look like a destination.
    """
    found, running = _look(folder)
    if name not in found and not (running and is_destination(name)):
        if to is not None and name == quarantine_of(to) and to in found:
            waiting = number_of(sum(row.count for row in found[to]), "event")
            raise ValueError(f"nothing of {to} is quarantined; waiting: {waiting}")
        there = f"there are: {', '.join(sorted(found))}" if found else "nothing waits that ended processes left"
        raise ValueError(f"there is no destination {given}; {there}")
    if to is not None and (not is_destination(to) or is_quarantine(to)):
        raise ValueError(f"{to} is no destination: HASH@COLLECTOR/SENDING, as list or /status tells it")
    add(folder, Decision(name, to, time.time()))
    who = "a proxy that runs does it within seconds, else the next one that starts"
    if folder.name == BACKFILL:
        who = f"the next backfill does it, or moesif-proxy spool --folder {folder} send"
    sys.stdout.write(f"noted: {who}\n")
    return 0


def _send(folder: Path, seconds: float) -> int:
    settings = parse_settings(given_environment(os.environ))
    if not settings.has_receiver:
        raise ValueError("nobody to send to: set MOESIF_APPLICATION_ID, as it was when the events were captured")
    instance = Instance.compile(settings)
    where = ", ".join(settings.kafka_brokers) or settings.api_endpoint
    sys.stdout.write(f"sending what waits for {instance.destination} to {where}, for at most {seconds:g} s\n")
    sys.stdout.flush()
    deadline = time.monotonic() + seconds
    maker = EventBuilder(Sampler(lambda _: Snapshot()), lambda *_: None)
    pipeline = Pipeline(folder, settings.spool_max_bytes, maker, lambda *_: None, apart=True)
    asked: list[int] = []

    def end(number: int) -> None:
        asked.append(number)
        pipeline.abort()

    with interrupts.taken(end):
        try:
            pipeline.start()
            pipeline.configure([instance])
            pipeline.look(seconds)
            pipeline.drain(max(0.0, deadline - time.monotonic()))
            condition = pipeline.condition()
        finally:
            pipeline.close()
    sys.stdout.write(f"{condition.reading.line()}\n")
    if waiting := condition.reading.waiting:
        reasons = ["interrupted"] if asked else []
        reasons += [one.reason for one in condition.health.values() if one.reason]
        reasons += [f"{name} is {one.state}" for name, one in condition.unsent.items()]
        sys.stderr.write(
            f"moesif: not sent: {number_of(waiting, 'event')} ({'; '.join(reasons) or 'the time is over'})\n"
        )
    return 1 if waiting else 0

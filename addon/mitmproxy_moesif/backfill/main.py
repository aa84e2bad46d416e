"""The command line of `moesif-proxy backfill`, and the processing of each file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mitmproxy_moesif.backfill.progress import Display, Progress
from mitmproxy_moesif.backfill.saved import FileError, Saved, read
from mitmproxy_moesif.backfill.work import StalledError, Work
from mitmproxy_moesif.config.arguments import OneLineParser, some_seconds
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.options import given_environment, given_settings
from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.config.text import reason_of
from mitmproxy_moesif.delivery.command import BACKFILL, DEFAULT
from mitmproxy_moesif.lifecycle import obstacles
from mitmproxy_moesif.log import describe
from mitmproxy_moesif.proxy.console import quiet_log
from mitmproxy_moesif.runtime import Prepared, spool_folder

MOST_TOLD = 20
"""Maximum number of unreadable entries that are reported one by one."""


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if everything is delivered, 1 if not, 2 if the command line is invalid."""
    given = _parser().parse_args(arguments)
    try:
        prepared = _prepared(given.settings)
        confdir = expanded(DEFAULT).parent
        folder = spool_folder(prepared.instance.settings, confdir)
        backfill = Backfill(prepared, folder / BACKFILL if folder is not None else None, given.files, given.patience)
        quiet_log()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, Ctrl-C ends with a summary
        return backfill.run()
    except (SettingsError, OSError) as error:
        file = f"{error.filename}: " if isinstance(error, OSError) and error.filename is not None else ""
        sys.stderr.write(f"moesif-proxy backfill: {file}{reason_of(error)}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="moesif-proxy backfill",
        description="Sends saved traffic: mitmproxy flow files, and HAR. Events keep their original times, and are "
        "masked according to the options. Those older than 30 days are counted but not sent.",
        epilog="A second run changes nothing: an exchange has the same transaction id each time. After a kill it "
        "resumes. The exit code is 0 if everything was delivered.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a flow file or a HAR")
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="an option; repeatable")
    add(
        "--patience",
        type=some_seconds,
        default=120,
        metavar="SECONDS",
        help="gives up after this time without any delivery; waiting events stay on disk; default: %(default)s",
    )
    return parser


def _prepared(settings: Sequence[str]) -> Prepared:
    prepared = Prepared.of({**given_environment(os.environ), **given_settings(settings)})
    if prepared.awaits_kong:
        raise SettingsError("kong_admin_url: Kong's configuration is not known, but needed to know what to capture")
    if reasons := obstacles(prepared):
        raise SettingsError("; ".join(reasons))
    return prepared


class Backfill:
    """One run over some files. `folder`: where to store events and progress; None for nowhere. Raises `OSError`."""

    def __init__(self, prepared: Prepared, folder: Path | None, files: Sequence[Path], patience: float) -> None:
        self._files = [(path, Progress(folder, path)) for path in files]
        self._work = Work(prepared, folder, patience)
        self._folder = folder
        self._counts: Counter[str] = Counter()

    def run(self) -> int:
        """Returns the exit code. Raises `OSError`."""
        complete = False
        with self._work.running():
            try:
                for path, progress in self._files:
                    self._take(path, progress)
                self._work.deliver()
                complete = self._work.is_done
            except (StalledError, KeyboardInterrupt) as error:
                self._say(f"moesif: stopped: {str(error) or 'interrupted'}")
            reading = self._work.reading
        if complete:
            for _, progress in self._files:
                progress.forget()
        self._say(f"moesif: {reading.line()}{self._summary()}")
        if reading.waiting and self._folder is not None:
            self._say(f"moesif: waiting events are in {self._folder}; the same command sends them")
        return 0 if complete and not self._counts["unreadable"] else 1

    def _take(self, path: Path, progress: Progress) -> None:
        """Process a file to its end, or up to where it is unreadable. Raises `StalledError`."""
        taken, number = progress.taken, 0
        self._counts["taken by an earlier run"] += taken
        with path.open("rb") as file, closing(Display(path, path.stat().st_size)) as display:
            try:
                for saved in read(file, path):
                    number = saved.number
                    display.show(file.tell(), number)
                    if self._is_full_with(path, saved, new=number > taken):
                        self._work.store()
                        progress.note(number)
            except FileError as error:
                self._unreadable(str(error))
        self._work.store()
        progress.note(max(number, taken))

    def _is_full_with(self, path: Path, saved: Saved, *, new: bool) -> bool:
        if saved.problem is not None:
            self._unreadable(saved.problem)
        elif not new:
            return False
        elif saved.flow is not None:
            try:
                return self._work.take(saved.flow)
            except Exception as error:  # noqa: BLE001 - a damaged flow, or an error of ours, must not affect others
                self._unreadable(f"{path}: exchange {saved.number} cannot be processed: {describe(error)}")
        else:
            self._counts["not HTTP"] += 1
        return False

    def _unreadable(self, problem: str) -> None:
        self._counts["unreadable"] += 1
        if self._counts["unreadable"] <= MOST_TOLD:
            self._say(f"moesif: {problem}")

    def _summary(self) -> str:
        counts = {**self._counts, **self._work.left_out}
        return "".join(f"; {count} {what}" for what, count in counts.items() if count)

    def _say(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

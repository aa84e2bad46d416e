"""python -m tests.soak [--minutes N] [--seed N] [--rate N] [--keep FOLDER] [--on-disk-within SECONDS]

The exit code: 0 where everything is accounted for; 1 with the reasons; 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.soak.judgement import ON_DISK_WITHIN
from tests.soak.run import Plan, Soak


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    plan = Plan(options.minutes * 60, options.seed, options.rate, options.on_disk_within)
    _say(f"{options.minutes:g} minutes, seed {plan.seed}, {plan.rate:g} exchanges a second")
    with _folder(options.keep) as folder:
        soak = Soak(plan, folder, _say)
        with _interruptible(soak):
            reasons = soak.run()
    if soak.interrupted:
        _say("interrupted")
        return 130
    for reason in reasons:
        _say(f"FAILED: {reason}")
    if reasons:
        _say(f"again: python -m tests.soak --minutes {options.minutes:g} --seed {plan.seed} --rate {plan.rate:g}")
        return 1
    _say("all events are accounted for")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Traffic and faults, for minutes.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the faults and the traffic")
    parser.add_argument("--rate", type=float, default=200, help="exchanges a second")
    parser.add_argument("--keep", type=Path, help="folder for logs, journal and spool; default: one that is removed")
    parser.add_argument(
        "--on-disk-within",
        type=float,
        default=ON_DISK_WITHIN,
        help="seconds after which an event has to survive a kill: more where the machine is busy with other things",
    )
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(f"soak: {line}", flush=True)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="moesif-soak-") as folder:
            yield Path(folder)


@contextmanager
def _interruptible(soak: Soak) -> Iterator[None]:
    """Ctrl-C is no exception that may hit between a process's start and the note of it: the soak looks for it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        soak.interrupted = True

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

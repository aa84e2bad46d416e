"""python -m tests.bench [--full] [--only NAME ...] [--rounds N] [--seconds N]

Prints Markdown tables; writes results.json and results.svg. Without arguments it takes five to ten minutes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.bench import machine, plot, report
from tests.bench.children import BenchError
from tests.bench.results import Results
from tests.bench.scenarios import SCENARIOS, Bench
from tests.bench.services import Services
from tests.bench.variants import BIN


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0; 1 with one line on stderr; 130 where it was interrupted. What was measured is told anyway."""
    options = _parse(arguments)
    results = Results({}, options.rounds, options.seconds)
    code = 0
    try:
        check_machine()
        results.machine = machine.describe()
        with _interruptible():
            run(options, results)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        code = 130
    finally:
        if results.measured:
            tell(results, options.out)
    return code or int(not all(account.holds for account in results.accounts))


def tell(results: Results, folder: Path) -> None:
    """Everything into the folder's results.json and results.svg, and the tables on stdout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report.as_json(results), indent=1) + "\n")
    (folder / "results.svg").write_text(plot.svg(results))
    print(report.markdown(results))


@contextmanager
def _interruptible() -> Iterator[None]:
    former = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Once: what was started has to be ended, and a second Ctrl-C must not cut that short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = "\n".join(f"  {name:12} {scenario.title}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"The paired benchmark. Scenarios (those up to `parts` make the quick run):\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="all scenarios; takes about an hour")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="this scenario; may be repeated")
    parser.add_argument("--rounds", type=_at_least(1), default=5, help="rounds of each comparison (5)")
    parser.add_argument("--seconds", type=_at_least(2), help="load on each variant in a round (2; 4 with --full)")
    parser.add_argument("--long-seconds", type=_at_least(1), default=60, help="the long stretch at saturation (60)")
    parser.add_argument("--exchanges", type=_at_least(1000), default=200_000, help="for the memory run (200000)")
    parser.add_argument("--megabytes", type=_at_least(1), default=1000, help="of a large body (1000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of results.json and .svg")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (4 if options.full else 2)
    return options


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, {text!r} was given")
        return int(text)

    return number


def run(options: argparse.Namespace, results: Results) -> None:
    """Raises `BenchError` where a part of it cannot go on."""
    names = options.only or [name for name, scenario in SCENARIOS.items() if options.full or scenario.quick]
    with tempfile.TemporaryDirectory(prefix="moesif-bench-") as path, Services(Path(path)) as services:
        bench = Bench(
            services,
            Path(path),
            results,
            options.rounds,
            options.seconds,
            options.long_seconds,
            options.exchanges,
            options.megabytes * 1_000_000,
            say,
        )
        for name in names:
            say(f"{name}: {SCENARIOS[name].title}")
            SCENARIOS[name].run(bench)


def check_machine() -> None:
    """Raises `BenchError` where something that is needed is not there."""
    if not Path("/proc/self/schedstat").exists():
        raise BenchError("needs Linux: CPU time and memory are read from /proc")
    if not (BIN / "mitmdump").exists():
        raise BenchError(f"mitmdump is not in {BIN}: run `make install` first")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

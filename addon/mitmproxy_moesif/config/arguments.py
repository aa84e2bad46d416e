"""What command lines take, for all commands alike."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from mitmproxy_moesif.config.text import quoted

MOST_SECONDS = 86_400


class OneLineParser(argparse.ArgumentParser):
    """What it refuses is told in one line, also by the parsers of its commands, which are of its kind."""

    def error(self, message: str) -> NoReturn:
        shown = re.sub(r"=\S+", "=...", message)  # of an argument that is not known, the value may be a secret
        self.exit(2, f"{self.prog}: {shown}; see {self.prog} --help\n")


def whole(text: str, most: int) -> int | None:
    """A number from 0, in digits; None where it is none. Python's `int` takes digits of any script, blanks and `_`, and
    no more than 4,300."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and int(text) <= most else None


def up_to(most: int) -> Callable[[str], int]:
    """A type of argparse's: from 1."""

    def number(text: str) -> int:
        if not (found := whole(text, most)):
            raise argparse.ArgumentTypeError(f"must be from 1 to {most}, {quoted(text)} was given")
        return found

    return number


def seconds(text: str) -> float:
    """A type of argparse's: a day at most."""
    if not 0 <= (given := _number(text)) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {MOST_SECONDS}, {quoted(text)} was given")
    return given


def some_seconds(text: str) -> float:
    """The same for what is tried for so long: none would be no try."""
    if not 0 < (given := _number(text)) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, up to {MOST_SECONDS}, {quoted(text)} was given")
    return given


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1

"""Argument parsing shared by all commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from mitmproxy_moesif.config.text import quoted

MOST_SECONDS = 86_400


class OneLineParser(argparse.ArgumentParser):
    """Reports errors in one line; so do the parsers of its subcommands, which have the same class."""

    def error(self, message: str) -> NoReturn:
        shown = re.sub(r"=\S+", "=...", message)  # the value of an unknown argument may be a secret
        self.exit(2, f"{self.prog}: {shown}; see {self.prog} --help\n")


def whole(text: str, most: int) -> int | None:
    """A number from 0, in digits; None where it is none. Python's `int` takes digits of any script, blanks and `_`, and
    no more than 4,300."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and int(text) <= most else None


def up_to(most: int) -> Callable[[str], int]:
    """An argparse type: a whole number from 1 to `most`."""

    def number(text: str) -> int:
        if not (found := whole(text, most)):
            raise argparse.ArgumentTypeError(f"must be from 1 to {most}, {quoted(text)} was given")
        return found

    return number


def seconds(text: str) -> float:
    """An argparse type: seconds, at most a day."""
    if not 0 <= (given := _number(text)) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {MOST_SECONDS}, {quoted(text)} was given")
    return given


def some_seconds(text: str) -> float:
    """Like `seconds`, but above 0, for how long something is tried."""
    if not 0 < (given := _number(text)) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, up to {MOST_SECONDS}, {quoted(text)} was given")
    return given


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1

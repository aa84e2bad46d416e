"""What command lines take, for all commands alike."""

from __future__ import annotations

import argparse

from mitmproxy_moesif.config.text import quoted

MOST_SECONDS = 86_400


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

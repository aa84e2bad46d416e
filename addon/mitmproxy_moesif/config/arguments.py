"""What command lines take, for all commands alike."""

from __future__ import annotations

import argparse

from mitmproxy_moesif.config.text import quoted

MOST_SECONDS = 86_400


def seconds(text: str) -> float:
    """A type of argparse's: a day at most."""
    try:
        given = float(text)
    except ValueError:
        given = -1
    if not 0 <= given <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {MOST_SECONDS}, {quoted(text)} was given")
    return given

"""Seconds on a command line: of every command the same, and in one line what is wrong."""

from __future__ import annotations

import argparse
import re

import pytest

from mitmproxy_moesif.cli import main
from mitmproxy_moesif.config.arguments import seconds, some_seconds


@pytest.mark.parametrize(("text", "given"), [("0", 0.0), ("0.5", 0.5), (" 60 ", 60.0), ("86400", 86_400.0)])
def test_seconds_are_taken(text: str, given: float) -> None:
    assert seconds(text) == given


@pytest.mark.parametrize("text", ["", "soon", "-1", "86401", "inf", "nan", "1e9", "5s"])
def test_what_is_no_seconds_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be seconds from 0 to 86400"):
        seconds(text)


def test_nothing_is_tried_for_no_time() -> None:
    assert some_seconds("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="must be seconds above 0, up to 86400, '0' was given"):
        some_seconds("0")


@pytest.mark.parametrize(
    "command",
    [
        ("proxy", "--drain-timeout", "soon"),
        ("backfill", "--patience", "0", "saved.har"),
        ("spool", "send", "--timeout", "0"),
    ],
)
def test_every_command_says_what_it_takes(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(list(command))
    assert re.search(r"must be seconds .*, '(soon|0)' was given", capsys.readouterr().err)


@pytest.mark.parametrize("number", ["²", "٣", "1_0", "+1", "1" * 5000, "-1", ""])
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("proxy", "--workers"), "must be from 1 to 256"),
        (("proxy", "--listen"), "must be HOST:PORT or PORT"),
        (("collector", "--keep-events"), "must be a whole number above 0"),
        (("run", "--port"), "a port is a number from 1 to 65535"),
        (("debug", "--web-port"), "a port is a number from 1 to 65535"),
    ],
)
def test_numbers_are_in_digits(
    command: tuple[str, ...], said: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *names, option = command
    with pytest.raises(SystemExit):
        main([*names, f"{option}={number}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {option}: {said}, " in line
    assert len(line) < 500

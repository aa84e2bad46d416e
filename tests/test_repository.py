"""What is written down in several files says the same: Makefile, workflow, pre-commit, versions, paths."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_make_tells_what_can_be_made(arguments: list[str]) -> None:
    command = ["make", "--no-print-directory", *arguments]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert [line.split()[1] for line in told.splitlines()] == phony.split()
    assert all(len(line.split()) > 2 for line in told.splitlines())

"""The results of checks: one line each, with what to do. They never contain secrets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """The severity; a failure makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `todo` says what to do; empty if nothing."""

    check: str
    level: Level
    text: str
    todo: str = ""

    def line(self) -> str:
        todo = f" -> {self.todo}" if self.todo else ""
        return f"{self.level:<8} {self.check:<14} {self.text}{todo}"


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, todo: str) -> Finding:
    return Finding(check, Level.WARNING, text, todo)


def failure(check: str, text: str, todo: str) -> Finding:
    return Finding(check, Level.FAILURE, text, todo)


def failed(findings: Iterable[Finding]) -> bool:
    return any(finding.level is Level.FAILURE for finding in findings)


def as_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings for `--json`."""
    found = list(findings)
    return {"ok": not failed(found), "findings": [_as_text(asdict(finding)) for finding in found]}


def _as_text(members: dict[str, str]) -> dict[str, str]:
    """Escape bytes of a path that are not UTF-8, as in the text output; JSON cannot have them."""
    return {name: value.encode("utf-8", "backslashreplace").decode() for name, value in members.items()}

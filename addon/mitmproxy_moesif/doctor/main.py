"""The command line of `moesif-proxy doctor`, and its report."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence

import orjson

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.doctor import configuration, machine, moesif, spool, upstream
from mitmproxy_moesif.doctor.configuration import Subject
from mitmproxy_moesif.doctor.findings import Finding, as_document, failed, failure
from mitmproxy_moesif.log import describe
from mitmproxy_moesif.proxy.arguments import Arguments, arguments_of, option_parser

CHECKS: tuple[tuple[str, Callable[[Subject], Iterator[Finding]]], ...] = (
    ("upstream", upstream.examine),
    ("moesif", moesif.examine),
    ("machine", machine.examine),
    ("spool", spool.examine),
)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 if there is a failure; 2, with one line, if the command line is invalid."""
    parser = option_parser(
        "moesif-proxy doctor",
        "Checks what a start with the same options needs: one line each, with what to do.",
        "The exit code is 1 if there is a failure. Nothing is captured or sent.",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document")
    given = parser.parse_args(arguments)
    interrupts.end_at_once("moesif-proxy doctor: interrupted: not everything was checked")
    findings = asyncio.run(examine(arguments_of(given)))
    if given.json:
        sys.stdout.write(orjson.dumps(as_document(findings), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.writelines(f"{finding.line()}\n" for finding in findings)
    return 1 if failed(findings) else 0


async def examine(arguments: Arguments) -> list[Finding]:
    subject, findings = await configuration.read(arguments)
    findings.append(machine.running_versions())
    if subject is not None:
        for name, check in CHECKS:
            findings += carried_out(name, check, subject)
    return findings


def carried_out(name: str, check: Callable[[Subject], Iterator[Finding]], subject: Subject) -> Iterator[Finding]:
    """The findings of a check; an exception in it becomes a finding too."""
    try:
        yield from check(subject)
    except Exception as error:  # noqa: BLE001 - the other checks must go on
        yield failure(name, f"this cannot be checked: {describe(error)}", "please report it")

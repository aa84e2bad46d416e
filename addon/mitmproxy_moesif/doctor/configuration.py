"""Reads options, files and environment as a start does, by creating the proxy without running it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.doctor.findings import Finding, failure, ok, warning
from mitmproxy_moesif.lifecycle import obstacles, odd_masks, remarks
from mitmproxy_moesif.proxy.arguments import Arguments
from mitmproxy_moesif.proxy.configuration import ConfigurationError, unknown
from mitmproxy_moesif.proxy.master import Proxy
from mitmproxy_moesif.proxy.serve import Standalone
from mitmproxy_moesif.runtime import Prepared, spool_folder

CHECK = "configuration"
LOOK_UP = "moesif-proxy --options lists all options"
CORRECT = "correct it: the proxy does not start with it"


@dataclass(frozen=True, slots=True)
class Subject:
    """The objects to check. `engine` has mitmproxy's own options."""

    arguments: Arguments
    prepared: Prepared
    engine: Any

    @property
    def settings(self) -> Settings:
        return self.prepared.instance.settings

    @property
    def upstream(self) -> str:
        """The upstream's URL."""
        return str(self.engine.mode[0]).removeprefix("reverse:")

    @property
    def folder(self) -> Path | None:
        return spool_folder(self.settings, expanded(self.engine.confdir))


async def read(arguments: Arguments) -> tuple[Subject | None, list[Finding]]:
    """The configuration (None if it is invalid), and findings. Needs a running event loop."""
    with heard() as said:
        try:
            proxy = Proxy(arguments, Standalone())
        except ConfigurationError as error:
            return None, [refused(str(error))]
    findings = [told(record) for record in said]
    engine, prepared = proxy.master.options, proxy.capture.prepared
    findings += [refused(unknown(name, engine.keys())) for name in engine.deferred]
    if prepared is None:
        return None, findings
    findings += [refused(reason) for reason in obstacles(prepared)]
    settings = prepared.instance.settings
    findings += [warning(CHECK, remark, "change or remove it") for remark in remarks(settings)]
    if (odd := odd_masks(prepared)) is not None:
        findings.append(warning(CHECK, odd, "give only the name: it is found at any depth"))
    if not settings.enabled:
        findings.append(warning(CHECK, "capture is off: traffic passes, nothing is captured", "set enabled=true"))
    parameters, instances = len(settings.model_fields_set), len(prepared.instances)
    given = f"{number_of(parameters, 'parameter')} given, {number_of(instances, 'instance')}"
    return Subject(arguments, prepared, engine), findings or [ok(CHECK, given)]


def refused(reason: str) -> Finding:
    return failure(CHECK, reason, LOOK_UP if "there is no such" in reason else CORRECT)


def told(record: logging.LogRecord) -> Finding:
    text = " ".join(record.getMessage().split()).removeprefix("moesif: ").removeprefix("moesif-proxy: ")
    if record.levelno >= logging.ERROR:
        return refused(text)
    return warning(CHECK, text, "see compose/OPTIONS.md")


@contextmanager
def heard() -> Iterator[list[logging.LogRecord]]:
    """Collects the warnings and errors that are logged in the block; other handlers do not get them."""
    ear, logger = BufferingHandler(sys.maxsize), logging.getLogger()
    ear.setLevel(logging.WARNING)
    before, logger.handlers = logger.handlers, [ear]
    try:
        yield ear.buffer
    finally:
        logger.handlers = before

"""Checks whether each receiver accepts events, and whether this machine's clock is right."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import requests

from mitmproxy_moesif import __version__
from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.doctor.configuration import Subject
from mitmproxy_moesif.doctor.findings import Finding, failure, ok, warning
from mitmproxy_moesif.start_report import shown
from mitmproxy_moesif.web.session import DeadlineSession, network_reason

CHECK, AKTO, CLOCK = "moesif", "akto", "clock"
CONNECT_SECONDS = 5.0
SKEW_SECONDS = 5.0
LATE_SECONDS = 300.0
"""Moesif counts an event of this age as late."""


def examine(subject: Subject) -> Iterator[Finding]:
    """Check each combination of collector and application id once, and each target of Akto."""
    asked = set()
    for instance in subject.prepared.instances:
        settings = instance.settings
        if not settings.enabled or instance.account in asked:
            continue
        asked.add(instance.account)
        if settings.kafka_brokers:
            yield from (broker(address, "kafka", "kafka_brokers") for address in settings.kafka_brokers)
        elif settings.application_id.get_secret_value():
            yield from collector(settings)
        elif settings.sink_file is not None:
            yield ok(CHECK, f"events only go to {settings.sink_file}")
    for _, target in sorted({target.place: target for target in subject.prepared.akto}.items()):
        yield from akto(target)


def collector(settings: Settings) -> Iterator[Finding]:
    url = settings.api_endpoint
    began = time.time()
    try:
        answer = ask(settings)
    except OSError as error:
        todo = "correct api_endpoint, or make it reachable from this machine"
        yield failure(CHECK, f"{shown(url)}: {network_reason(error, url)}", todo)
        return
    yield verdict(url, answer.status_code)
    if (date := answer.headers.get("Date")) is not None:
        yield clock(date, began, time.time())


def ask(settings: Settings) -> requests.Response:
    headers = {
        "X-Moesif-Application-Id": settings.application_id.get_secret_value(),
        "User-Agent": f"mitmproxy-moesif/{__version__}",
    }
    timeout = (settings.connect_seconds, settings.send_seconds)
    with DeadlineSession() as session, session.deadline(sum(timeout)):
        url = f"{settings.api_endpoint}/v1/config"
        return session.get(url, headers=headers, timeout=timeout, allow_redirects=False)


def verdict(url: str, status: int) -> Finding:
    if status == 200:
        return ok(CHECK, f"{shown(url)} accepts the application id")
    if status in (401, 403):
        todo = "copy the Collector Application ID from Moesif's settings"
        return failure(CHECK, f"{shown(url)} does not accept the application id ({status})", todo)
    return failure(CHECK, f"{shown(url)} answers with {status}", "correct api_endpoint, or try again later")


def broker(address: str, check: str, option: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        todo = f"correct {option}, or make it reachable from this machine"
        return failure(check, network_reason(error, f"kafka://{address}"), todo)
    return ok(check, f"the broker {address} is reachable")


def akto(target: AktoTarget) -> Iterator[Finding]:
    """Check whether Akto answers at all; whether it accepts records would only show by sending one."""
    if target.brokers:
        yield from (broker(address, AKTO, "akto_kafka_brokers") for address in target.brokers)
        return
    try:
        with DeadlineSession() as session, session.deadline(CONNECT_SECONDS):
            answer = session.head(target.url, timeout=CONNECT_SECONDS, allow_redirects=False)
    except OSError as error:
        todo = "correct akto_service_url, or make it reachable from this machine"
        yield failure(AKTO, f"{shown(target.url)}: {network_reason(error, target.url)}", todo)
        return
    yield ok(AKTO, f"{shown(target.url)} answers with {answer.status_code}")


def clock(date: str, began: float, ended: float) -> Finding:
    """Compare with the Date of a response, which has whole seconds and was written between `began` and `ended`."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return warning(CLOCK, "the collector's Date header cannot be read", "check this machine's clock yourself")
    skew = began - theirs - 1 if began > theirs + 1 else min(0.0, ended - theirs)
    text = f"this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) >= LATE_SECONDS:
        return failure(CLOCK, f"{text}: events have wrong times", "set it, and keep it right with NTP")
    if abs(skew) >= SKEW_SECONDS:
        return warning(CLOCK, text, "keep it right with NTP")
    return ok(CLOCK, f"within {SKEW_SECONDS:.0f} s of the collector's")

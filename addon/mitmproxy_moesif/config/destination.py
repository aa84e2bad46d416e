"""How the queues of events are named: `ACCOUNT/SENDING`, where an account is `HASH@COLLECTOR`.

What decides how an event is sent is hashed into the name, so instances that differ in it share no queue. The
application id is told by nobody: names stand in files, logs and metrics. Older releases named a queue by the id's hash
alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from mitmproxy_moesif.config.settings import Settings

KAFKA, FILE = "kafka", "file"
"""In place of the hash where events only go there."""

QUARANTINE = "!quarantine"

_FORM = re.compile(rf"(?:(?:[0-9a-f]{{16}}@[^/\s]+|{KAFKA}|{FILE})/[0-9a-f]{{8}}|[0-9a-f]{{16}})(?:{QUARANTINE})?")


def application_of(settings: Settings) -> str:
    """The application id's hash; without one `kafka` or `file`, where events then go."""
    if application_id := settings.application_id.get_secret_value():
        return _digest(application_id, 16)
    return KAFKA if settings.kafka_brokers else FILE


def account_of(settings: Settings) -> str:
    """Whose configuration and rules apply: an application id at a collector."""
    application = application_of(settings)
    if not settings.application_id.get_secret_value():
        return application
    url = urlsplit(settings.api_endpoint)
    return f"{application}@{url.netloc}{url.path.replace('/', '_')}"


def destination_of(settings: Settings) -> str:
    """The queue of what is sent with these settings."""
    sending = (
        settings.api_endpoint,
        settings.sink_file,
        settings.kafka_brokers,
        settings.kafka_topic,
        settings.enable_compression,
        settings.connect_seconds,
        settings.send_seconds,
        settings.keepalive,
        settings.batch_size,
        settings.batch_max_bytes,
        settings.flush_interval,
        settings.max_callback_time_spent,
    )
    return f"{account_of(settings)}/{_digest(repr(sending), 8)}"


def heir_of(destination: str, configured: Sequence[str]) -> str | None:
    """Whose settings a queue's events are sent with, of those in the order they are configured.

    Its own; else, since these have changed, the last ones of its account, rather at the same
    collector than at another. Nobody's for those in quarantine.
    """
    if is_quarantine(destination):
        return None
    if destination in configured:
        return destination
    account, application = destination.partition("/")[0], _application(destination)
    same = [one for one in configured if _application(one) == application]
    return max(reversed(same), key=lambda one: one.partition("/")[0] == account, default=None)


def quarantine_of(destination: str) -> str:
    """Where events wait that this queue's receiver does not take."""
    return destination + QUARANTINE


def is_destination(text: str) -> bool:
    """Whether it has the form of a queue's name."""
    return _FORM.fullmatch(text) is not None


def base_of(destination: str) -> str:
    """The queue that a quarantine belongs to; a queue's own name."""
    return destination.removesuffix(QUARANTINE)


def is_quarantine(destination: str) -> bool:
    return destination.endswith(QUARANTINE)


def _application(destination: str) -> str:
    return destination.partition("/")[0].partition("@")[0]


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

"""The names of the queues of events: `ACCOUNT/SENDING`, where an account is `HASH@COLLECTOR`.

`SENDING` is a hash of all settings for sending, so instances that differ in these share no queue. A name never contains
the application id itself, since names appear in files, logs and metrics. Older releases named a queue only by the id's
hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from mitmproxy_moesif.config.settings import Settings

KAFKA, FILE = "kafka", "file"
"""Used in place of the hash if events only go there."""

QUARANTINE = "!quarantine"

_FORM = re.compile(rf"(?:(?:[0-9a-f]{{16}}@[^/\s]+|{KAFKA}|{FILE})/[0-9a-f]{{8}}|[0-9a-f]{{16}})(?:{QUARANTINE})?")


def application_of(settings: Settings) -> str:
    """The application id's hash; without an id, `kafka` or `file`, depending on where events go."""
    if application_id := settings.application_id.get_secret_value():
        return _digest(application_id, 16)
    return KAFKA if settings.kafka_brokers else FILE


def account_of(settings: Settings) -> str:
    """The account whose configuration and rules apply: an application id at a collector."""
    application = application_of(settings)
    if not settings.application_id.get_secret_value():
        return application
    url = urlsplit(settings.api_endpoint)
    return f"{application}@{url.netloc}{url.path.replace('/', '_')}"


def destination_of(settings: Settings) -> str:
    """The queue for events that are sent with these settings."""
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
    """The configured destination whose settings are used to send a queue's events. `configured` is in order.

    It is the queue's own; if that is no longer configured, the last one with the same application id, preferably at the
    same collector. None for a quarantine.
    """
    if is_quarantine(destination):
        return None
    if destination in configured:
        return destination
    account, application = destination.partition("/")[0], _application(destination)
    same = [one for one in configured if _application(one) == application]
    return max(reversed(same), key=lambda one: one.partition("/")[0] == account, default=None)


def quarantine_of(destination: str) -> str:
    """The queue of events that this queue's receiver does not accept."""
    return destination + QUARANTINE


def is_destination(text: str) -> bool:
    """Whether a text has the form of a queue's name."""
    return _FORM.fullmatch(text) is not None


def base_of(destination: str) -> str:
    """The queue that a quarantine belongs to; any other name unchanged."""
    return destination.removesuffix(QUARANTINE)


def is_quarantine(destination: str) -> bool:
    return destination.endswith(QUARANTINE)


def _application(destination: str) -> str:
    return destination.partition("/")[0].partition("@")[0]


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

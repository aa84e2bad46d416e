"""Sends Akto's records to a Kafka topic that its runtime reads: one message per record, keyed by host."""

from __future__ import annotations

from typing import Any

import orjson

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.delivery.receivers.akto import DEADLINE, AktoReceiver
from mitmproxy_moesif.delivery.receivers.base import Receiver
from mitmproxy_moesif.delivery.receivers.kafka import DEFAULTS, Headers, TopicReceiver, make_producer


class AktoTopic(TopicReceiver):
    """For one thread."""

    def __init__(self, target: AktoTarget) -> None:
        super().__init__(target.topic, min(target.timeout, DEADLINE))
        self._target = target

    def _configuration(self) -> dict[str, Any]:
        return configuration(self._target)

    def _message(self, event: bytes) -> tuple[bytes | None, Headers]:
        host = orjson.loads(orjson.loads(event)["requestHeaders"]).get("host")
        return host.encode() if host else None, []


def configuration(target: AktoTarget) -> dict[str, Any]:
    return {**DEFAULTS, "bootstrap.servers": ",".join(target.brokers)}


def akto_receiver(target: AktoTarget) -> Receiver:
    """The receiver for the configured transport."""
    return AktoTopic(target) if target.brokers else AktoReceiver(target)


def akto_trouble(target: AktoTarget) -> str | None:
    """The problem with the Kafka settings in one line, if any; does not contact brokers."""
    try:
        make_producer(configuration(target))
    except ValueError as error:
        return f"akto_{error}"
    return None

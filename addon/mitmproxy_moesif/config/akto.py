"""The receiver Akto as configured: where its records go, and how."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mitmproxy_moesif.config.settings import AKTO_PREFIX, Settings, parse_settings

PARAMETERS = frozenset(name for name in Settings.model_fields if name.startswith(AKTO_PREFIX))
OFF = parse_settings({})
"""The settings for exchanges that do not go to Akto."""

MAX_BODY_BYTES = 256 * 1024
"""Maximum bytes of a body in a record."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class AktoTarget:
    """An ingest service at `url`, or a Kafka topic with `brokers`. `name` is unique; `timeout` is in seconds."""

    url: str
    timeout: float
    log_level: int
    account_id: str
    api_key: str = field(default="", repr=False)
    brokers: tuple[str, ...] = ()
    topic: str = ""

    @property
    def place(self) -> str:
        return f"Kafka at {', '.join(self.brokers)}, topic {self.topic}" if self.brokers else self.url

    @property
    def name(self) -> str:
        if self.brokers:
            return f"akto@{self.brokers[0]}_{self.topic}"
        parts = urlsplit(self.url)
        return f"akto@{parts.netloc}{parts.path.replace('/', '_')}"

    @classmethod
    def of(cls, settings: Settings) -> AktoTarget | None:
        """The target of these settings; None if nothing goes to Akto."""
        if not settings.feeds_akto:
            return None
        is_kafka = settings.akto_transport == "kafka"
        return cls(
            settings.akto_service_url or "",
            settings.akto_timeout / 1000,
            LEVELS[settings.akto_log_level],
            settings.akto_account_id,
            settings.akto_api_key.get_secret_value(),
            settings.akto_kafka_brokers if is_kafka else (),
            settings.akto_kafka_topic if is_kafka else "",
        )

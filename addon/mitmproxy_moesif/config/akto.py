"""The receiver Akto as settings name it: where its records go, and how."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mitmproxy_moesif.config.settings import AKTO_PREFIX, Settings

PARAMETERS = frozenset(name for name in Settings.model_fields if name.startswith(AKTO_PREFIX))
OFF: Mapping[str, Any] = {name: Settings.model_fields[name].default for name in PARAMETERS}
"""The parameters where exchanges do not go to Akto."""

MAX_BODY_BYTES = 256 * 1024
"""Of a body, in a record."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class AktoTarget:
    """An ingest service at `url`; `name` tells it from others in counts and logs. `timeout` in seconds."""

    url: str
    timeout: float
    log_level: int
    account_id: str
    api_key: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        parts = urlsplit(self.url)
        return f"akto@{parts.netloc}{parts.path.replace('/', '_')}"

    @classmethod
    def of(cls, settings: Settings) -> AktoTarget | None:
        """None where nothing goes to Akto."""
        if settings.akto_service_url is None:
            return None
        return cls(
            settings.akto_service_url,
            settings.akto_timeout / 1000,
            LEVELS[settings.akto_log_level],
            settings.akto_account_id,
            settings.akto_api_key.get_secret_value(),
        )


def akto_parameters(settings: Settings) -> dict[str, Any]:
    """The values of Akto's parameters."""
    return {name: getattr(settings, name) for name in PARAMETERS}

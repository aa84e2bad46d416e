"""The gate's parameters as mitmproxy options. Precedence: `--set`, then mitmproxy's config.yaml, then the default."""

from __future__ import annotations

from typing import Any

from mitmproxy import optmanager

from mitmproxy_moesif.config.options import OptionTable, current
from mitmproxy_moesif.jwt_gate.settings import PREFIX, GateSettings

NAMES = frozenset(GateSettings.model_fields)

PARAMETERS = OptionTable(GateSettings, str, (PREFIX,))
"""The names of the fields are the full names of the options."""


def read_given(options: optmanager.OptManager) -> dict[str, Any]:
    return {name: current(getattr(options, name)) for name in GateSettings.model_fields}

"""The gate's options as Markdown, for the README: `python -m mitmproxy_moesif.jwt_gate.reference`."""

from __future__ import annotations

import json
import sys

from mitmproxy_moesif.jwt_gate.settings import GateSettings


def default_text(name: str) -> str:
    """An option's default as the README shows it."""
    default = GateSettings.model_fields[name].default
    return json.dumps(default) if isinstance(default, bool | int) else str(default or "none")


def table() -> str:
    rows = [
        f"| `{name}` | {default_text(name)} | {field.description} |"
        for name, field in GateSettings.model_fields.items()
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

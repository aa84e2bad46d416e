"""The parameter table as Markdown, for the README: `python -m mitmproxy_moesif.config.reference`."""

from __future__ import annotations

import sys

from mitmproxy_moesif.config.settings import SECRETS, Settings


def default_text(name: str) -> str:
    """A parameter's default as the README shows it."""
    if name in SECRETS:
        return "none"
    match Settings.model_fields[name].default:
        case None | ():
            return "none"
        case bool() as flag:
            return str(flag).lower()
        case tuple() as items:
            return "`" + ",".join(map(str, items)) + "`"
        case str() as text:
            return f"`{text}`"
        case other:
            return str(other)


def table() -> str:
    rows = [
        f"| `{name}` | {default_text(name)} | {field.description} |" for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| parameter | default | meaning |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

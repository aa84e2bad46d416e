"""A table of parameters as Markdown, for compose/OPTIONS.md: `python -m mitmproxy_moesif.config.reference`."""

from __future__ import annotations

import sys

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mitmproxy_moesif.config.fields import choices, secrets_of
from mitmproxy_moesif.config.settings import Settings


def markdown(table: type[BaseModel]) -> str:
    """One row for each parameter: name, default, meaning."""
    secrets = secrets_of(table)
    rows = [
        f"| `{name}` | {'none' if name in secrets else default_text(field.default)} | {meaning(field)} |"
        for name, field in table.model_fields.items()
    ]
    return "\n".join(["| parameter | default | meaning |", "|---|---|---|", *rows])


def meaning(field: FieldInfo) -> str:
    """The parameter's description, and its allowed values if there are few."""
    if (values := choices(field)) is None:
        return field.description or ""
    return f"{field.description} One of {', '.join(f'`{value}`' for value in values)}."


def default_text(default: object) -> str:
    match default:
        case None | () | "":
            return "none"
        case bool() as flag:
            return str(flag).lower()
        case tuple() as items:
            return "`" + ",".join(map(str, items)) + "`"
        case str() as text:
            return f"`{text}`"
        case other:
            return str(other)


if __name__ == "__main__":
    sys.stdout.write(markdown(Settings) + "\n")

"""Redacts secrets in responses: finds them by the names of fields, and shows `***` instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mitmproxy_moesif.config.settings import SECRETS

SHOWN = "***"
"""The placeholder for a secret. In a change it means that the secret is not changed."""

LONG = 8
"""Length from which a secret is also replaced inside words."""

# Kong's plugins and ours name secrets like this; a false positive only hides one value.
_SECRET = re.compile(r"(.*[_-])?(secret|password|token|api_?key|application_id)", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return name in SECRETS or _SECRET.fullmatch(name) is not None


def redacted(content: object, secrets: Iterable[str] = ()) -> Any:
    """A copy with secrets replaced: values of fields with secret names, and `secrets` in any text."""
    if isinstance(content, Mapping):
        return {str(name): _value(str(name), value, secrets) for name, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [redacted(item, secrets) for item in content]
    if isinstance(content, str):
        return _without(content, secrets)
    return content


def reasons_without(content: object, secrets: Iterable[str]) -> Any:
    """A copy of errors by field, with `secrets` replaced in the texts; field names have no effect here."""
    if isinstance(content, Mapping):
        return {str(name): reasons_without(value, secrets) for name, value in content.items()}
    return redacted(content, secrets)


def _value(name: str, value: object, secrets: Iterable[str]) -> Any:
    if value is None or isinstance(value, bool) or not is_secret(name):
        return redacted(value, secrets)
    return SHOWN if value or not isinstance(value, str) else value


def _without(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets; a short one only as a whole word, since a single letter would match in every word."""
    for secret in sorted(secrets, key=len, reverse=True):
        literal = re.escape(secret)
        text = re.sub(literal if len(secret) >= LONG else rf"(?<!\w){literal}(?!\w)", SHOWN, text)
    return text


def shown_names(content: object) -> set[str]:
    """Parameters of an entity's `config` whose secrets a client sent back as the placeholder."""
    config = content.get("config") if isinstance(content, Mapping) else None
    return {name for name, value in config.items() if value == SHOWN} if isinstance(config, Mapping) else set()


def secret_values(content: object) -> set[str]:
    """All texts and numbers in fields with secret names, as texts."""
    return {text for text in _below_secrets(content, below=False) if text and text != SHOWN}


def _below_secrets(content: object, *, below: bool) -> Iterator[str]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _below_secrets(value, below=below or is_secret(str(name)))
    elif isinstance(content, list | tuple):
        for item in content:
            yield from _below_secrets(item, below=below)
    elif below and content is not None and not isinstance(content, bool):
        yield str(content)


def without_shown(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without secrets that a client sent back as the placeholder."""
    return {
        name: without_shown(value) if isinstance(value, Mapping) else value
        for name, value in content.items()
        if not (value == SHOWN and is_secret(name))
    }

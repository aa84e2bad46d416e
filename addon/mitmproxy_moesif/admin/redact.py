"""Secrets in what goes out: found by the names of fields, shown as `***`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mitmproxy_moesif.config.settings import SECRETS

SHOWN = "***"
"""What stands for a secret. Sent back in a change it means: leave it as it is."""

LONG = 8
"""Characters of a secret that is no part of a word by chance."""

# Kong's plugins and ours name secrets so; a false find costs one value that is not shown.
_SECRET = re.compile(r"(.*[_-])?(secret|password|token|api_?key|application_id)", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return name in SECRETS or _SECRET.fullmatch(name) is not None


def redacted(content: object, secrets: Iterable[str] = ()) -> Any:
    """A copy made of dicts and lists, secrets replaced: by the name of their field, and `secrets` in any text."""
    if isinstance(content, Mapping):
        return {str(name): _value(str(name), value, secrets) for name, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [redacted(item, secrets) for item in content]
    if isinstance(content, str):
        return _without(content, secrets)
    return content


def reasons_without(content: object, secrets: Iterable[str]) -> Any:
    """A copy of what is wrong with fields, by their names; `secrets` are replaced in it."""
    if isinstance(content, Mapping):
        return {str(name): reasons_without(value, secrets) for name, value in content.items()}
    return redacted(content, secrets)


def _value(name: str, value: object, secrets: Iterable[str]) -> Any:
    if value is None or isinstance(value, bool) or not is_secret(name):
        return redacted(value, secrets)
    return SHOWN if value or not isinstance(value, str) else value


def _without(text: str, secrets: Iterable[str]) -> str:
    """A short secret is replaced where it stands for itself only: one of a letter is not cut out of every word."""
    for secret in sorted(secrets, key=len, reverse=True):
        literal = re.escape(secret)
        text = re.sub(literal if len(secret) >= LONG else rf"(?<!\w){literal}(?!\w)", SHOWN, text)
    return text


def shown_names(content: object) -> set[str]:
    """The parameters of an entity's `config` whose secrets a client sends back as they were shown to it."""
    config = content.get("config") if isinstance(content, Mapping) else None
    return {name for name, value in config.items() if value == SHOWN} if isinstance(config, Mapping) else set()


def secret_values(content: object) -> set[str]:
    """All texts and numbers below fields that hold secrets, as texts."""
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
    """A copy without the secrets that a client sends back as they were shown to it."""
    return {
        name: without_shown(value) if isinstance(value, Mapping) else value
        for name, value in content.items()
        if not (value == SHOWN and is_secret(name))
    }

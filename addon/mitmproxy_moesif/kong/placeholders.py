"""Placeholders in a Kong file, or in a plugin's `config`, for values of environment variables.

decK replaces `${{ env "DECK_NAME" }}` anywhere before it parses a file; `| toInt`, `toFloat` or `toBool` may follow the
name. Kong reads `{vault://env/name}` as the value of `NAME`, and `{vault://env/name/key}` as that of a key in its JSON.
Other placeholders of the two kinds are refused. No message shows a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from mitmproxy_moesif.config.document import DocumentError

DECK_PREFIX = "DECK_"

_COMMENT = re.compile(r"\s*#")
_TEMPLATE = re.compile(r"\$\{\{(.*?)\}\}")
_FROM_ENVIRONMENT = re.compile(r'-?\s*env\s+["`](\w+)["`]\s*(?:\|\s*to(?:Bool|Int|Float)\s*)?-?')
_REFERENCE = re.compile(r"\{vault://(.*)\}", re.DOTALL)
_VAULT = re.compile(r"env/([\w-]+)(?:/([^/?]+))?/?")


def fill_in(content: bytes, environ: Mapping[str, str]) -> bytes:
    """Fill in decK's placeholders, except in comment lines. Raises `DocumentError`."""
    if b"${{" not in content:
        return content
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for number, line in enumerate(lines):
        if not _COMMENT.match(line):
            lines[number] = _TEMPLATE.sub(lambda found, at=number: _filled(found[1], environ, at + 1), line)  # type: ignore[misc]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _filled(template: str, environ: Mapping[str, str], line: int) -> str:
    found = _FROM_ENVIRONMENT.fullmatch(template)
    if found is None:
        raise DocumentError('the only supported placeholder is ${{ env "DECK_NAME" }}; give the value itself', line)
    name = found[1]
    if not name.startswith(DECK_PREFIX):
        raise DocumentError(f"the environment variable {name} must start with {DECK_PREFIX}, as in decK", line)
    if name not in environ:
        raise DocumentError(f"the environment variable {name} is not set", line)
    return environ[name]


def resolve_reference(text: str, environ: Mapping[str, str]) -> str:
    """The value of `{vault://...}`; any other text unchanged. Raises `ValueError`."""
    reference = _REFERENCE.fullmatch(text)
    if reference is None:
        return text
    found = _VAULT.fullmatch(reference[1])
    if found is None:
        raise ValueError("the only supported vault is {vault://env/name}; give the value, or set it as an option")
    name, key = found[1].replace("-", "_").upper(), found[2]
    if name not in environ:
        raise ValueError(f"the environment variable {name} is not set")
    return environ[name] if key is None else _member(environ[name], name, key)


def _member(text: str, name: str, key: str) -> str:
    try:
        found = json.loads(text)[key]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str | int):
        raise ValueError(f"the environment variable {name} is not JSON with the key {key!r}")
    return str(found)

"""Rules of one's own from a file: JSON where its name ends in `.json`, else YAML.

The file holds either a list of rules in Moesif's format, or an object that can also say who is in whose cohort, in the
format of Moesif's configuration:

    rules:
      - _id: over-quota
        type: user
        block: true
        variables: [{name: "0"}]
        response:
          status: 429
          headers: {Retry-After: "3600"}
          body: {error: "over the quota of {{0}} calls"}
    user_rules:
      alice: [{rules: over-quota, values: {"0": 1000}}]
    company_rules: {}

Numbers count as text where text is meant (`_id: 7`, keys of `values`), and a date in YAML is the text of it. Unlike
Moesif's answers, an object with other keys than these three is refused, and so is an empty file, which is what a
reader sees in the middle of a write.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.reader import ReaderError

from mitmproxy_moesif.governance.model import (
    GovernanceError,
    Location,
    RuleSet,
    as_text,
    check_size,
    one_line,
    read_cohorts,
    read_rules,
)

# Aliases let a small file mean a huge document; this many values are more than any rule file needs.
MAX_VALUES = 1_000_000

_KEYS = ("rules", "user_rules", "company_rules")


class _FileError(Exception):
    """A file that cannot be read as JSON or YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_local_rules(text: str | bytes, name: str) -> RuleSet:
    """The rules in a file's text. Raises GovernanceError that names the file and, where there is one, the line."""
    try:
        check_size(text)
        decoded = text.removeprefix("\ufeff") if isinstance(text, str) else _decoded(text)
        document = _json(decoded) if name.lower().endswith(".json") else _yaml(decoded)
    except _FileError as e:
        raise GovernanceError(_at(name, e.line, str(e))) from e
    except GovernanceError as e:
        raise GovernanceError(_at(name, None, str(e))) from e
    try:
        return _rule_set(document, name)
    except GovernanceError as e:
        raise GovernanceError(_at(name, _line_of(decoded, e.location), str(e))) from e


def _at(name: str, line: int | None, message: str) -> str:
    return one_line(f"{name}, line {line}: {message}" if line else f"{name}: {message}")


def _rule_set(document: object, name: str) -> RuleSet:
    if isinstance(document, list):
        return RuleSet(read_rules(document), source=name)
    if not isinstance(document, dict):
        raise GovernanceError(f"must be a list of rules, or an object with the keys {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            raise GovernanceError(f"is none of {', '.join(_KEYS)}", (key,))
    rules = document.get("rules")
    return RuleSet(
        rules=() if rules is None else read_rules(rules, ("rules",)),
        user_rules=read_cohorts(document, "user_rules"),
        company_rules=read_cohorts(document, "company_rules"),
        source=name,
    )


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise _FileError("is not UTF-8", raw[: e.start].count(b"\n") + 1) from e


def _json(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise _FileError(f"is not JSON: {e.msg}", e.lineno) from e


def _yaml(text: str) -> object:
    try:
        return _plain(_loaded(text), iter(range(MAX_VALUES)))
    except RecursionError as e:
        raise _FileError("is nested too deeply") from e


def _reader() -> YAML:
    reader = YAML(typ="safe", pure=True)
    reader.composer.warn_double_anchors = False  # allowed by YAML, and a library's warnings go to stderr
    return reader


def _loaded(text: str) -> object:
    try:
        return _reader().load(text)
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise _FileError(f"is not YAML: {e.problem}", mark.line + 1 if mark else None) from e
    except ReaderError as e:
        raise _FileError(f"is not YAML: {e.reason}", text[: e.position].count("\n") + 1) from e
    except RecursionError:
        raise
    except Exception as e:
        raise _FileError(f"is not YAML: {e}") from e


def _plain(value: object, budget: Iterator[int]) -> object:
    """A value of YAML as one of JSON: keys and dates become text."""
    if next(budget, None) is None:
        raise _FileError(f"holds more than {MAX_VALUES} values")
    if isinstance(value, dict):
        return {_key(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, budget) for item in value]
    if isinstance(value, str):  # YAML reads both halves of an escaped pair by themselves
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float):
        return value
    raise _FileError(f"holds a {type(value).__name__}, which JSON has no word for")


def _key(key: object) -> str:
    text = as_text(key.isoformat() if isinstance(key, datetime.date) else key)
    if text is None or isinstance(key, tuple | dict | list):
        raise _FileError("has a key that is no text")
    return text


def _line_of(text: str, location: Location) -> int | None:
    """The line of the deepest part of `location` that is there. JSON is read as the YAML that it (nearly) is."""
    try:
        node: Node | None = _reader().compose(text)
    except (YAMLError, RecursionError):
        return None
    line: int | None = node.start_mark.line if node else None
    for step in location:
        found = _child(node, step)
        if found is None:
            break
        line, node = found
    return None if line is None else line + 1


def _child(node: Node | None, step: int | str) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item.start_mark.line, item
    return None

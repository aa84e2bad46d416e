"""Reads a configuration file into plain values, and finds the line of each value.

YAML 1.2 and JSON. The result has only JSON's types: keys and dates are text as written. Tags other than YAML's own
scalars, mappings and sequences are refused, and so are files over the size limits, and aliases that would multiply the
file (`&a [*b, *b, ...]`). Duplicate keys and a second YAML document are refused in our own files; in Kong's, as in Kong
itself, the last of such keys and the first document are used.
Lines are looked up only for an error: in YAML's node tree, or by scanning the JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_YAML = 10_000_000
"""Bytes; the YAML parser needs some three seconds and 60 MB for each megabyte."""
MAX_JSON = 64 << 20
MAX_VALUES = 2_000_000
"""Values after expanding aliases. A file within the size limit stays below this, unless it has nested aliases."""
MAX_DEPTH = 100

type Path = tuple[str | int, ...]
"""The location of a value: keys and positions from the root."""

_TAG = "tag:yaml.org,2002:"
_SPACE = re.compile(r"[ \t\r\n]*")


class DocumentError(ValueError):
    """A file cannot be parsed: the reason, and the `line` (from 1) if known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """The root value of a file, and the lines of its values."""

    root: Any
    line_of: Callable[[Path], int | None] = lambda _: None
    """The line of the value at a path, or of its nearest existing parent; None if unknown."""


def parse_document(content: bytes, *, json_only: bool = False, as_kong: bool = False) -> Document:
    """Parse `content`, as JSON if it looks like JSON, else as YAML. Raises `DocumentError`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError("is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
    if json_only or (text.lstrip()[:1] in ("{", "[") and len(content) <= MAX_JSON):
        try:
            return _parse_json(text, as_kong=as_kong)
        except DocumentError:
            if json_only:
                raise
            # YAML may start with a bracket too, and its parser gives better error messages
    if len(content) > MAX_YAML:
        raise DocumentError(
            f"has {len(content)} bytes; YAML is read up to {MAX_YAML}, well-formed JSON up to {MAX_JSON}"
        )
    return _parse_yaml(text, as_kong=as_kong)


def _parse_json(text: str, *, as_kong: bool) -> Document:
    try:
        orjson.loads(text)  # reports the line of an error, and is stricter: no NaN, no lone surrogates
        root = json.loads(text, object_pairs_hook=None if as_kong else _json_object)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"is not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise DocumentError("is nested too deeply") from None
    except ValueError as error:  # also for an integer with thousands of digits
        raise DocumentError(str(error)) from None
    return Document(root, lambda path: _json_line(text, path))


def _json_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise ValueError("a key is given twice in one object")
    return made


def _json_line(text: str, path: Path) -> int:
    at = _skip_space(text, 0)
    for step in path:
        starts = [start for key, start in _json_members(text, at) if key == step]
        if not starts:
            break
        at = starts[-1]
    return text.count("\n", 0, at) + 1


def _json_members(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Key (or position) and start of each value in the object or array that starts at `at`. `text` must be valid."""
    decoder = json.JSONDecoder()
    is_object = text[at] == "{"
    if not is_object and text[at] != "[":
        return
    at = _skip_space(text, at + 1)
    position = 0
    while text[at] not in "]}":
        key: str | int = position
        if is_object:
            key, at = decoder.raw_decode(text, at)
            at = _skip_space(text, _skip_space(text, at) + 1)
        yield key, at
        _, at = decoder.raw_decode(text, at)
        at = _skip_space(text, at)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        position += 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _parse_yaml(text: str, *, as_kong: bool) -> Document:
    reader = YAML(typ="safe", pure=True)
    reader.composer.warn_double_anchors = False  # YAML allows them, and the library would warn on stderr
    try:
        node = next(reader.compose_all(text), None) if as_kong else reader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise DocumentError(f"is not valid YAML: {error.problem or error.context}", line) from None
    except RecursionError:
        raise DocumentError("is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the parser also raises other exceptions for invalid YAML
        line = text.count("\n", 0, error.position) + 1 if isinstance(error, ReaderError) else None
        raise DocumentError(f"is not valid YAML: {' '.join(str(error).splitlines()[:1])}", line) from None
    root = None if node is None else _Values(as_kong=as_kong).value(node, 0)
    return Document(root, lambda path: _yaml_line(node, path))


def _yaml_line(node: Node | None, path: Path) -> int:
    line = 0 if node is None else node.start_mark.line
    for step in path:
        found = [(at, child) for key, at, child in _yaml_members(node) if key == step]
        if not found:
            break
        line, node = found[-1]
    return int(line) + 1


def _yaml_members(node: Node | None) -> Iterator[tuple[Any, int, Node]]:
    if isinstance(node, MappingNode):
        for key, child in node.value:
            yield key.value, key.start_mark.line, child
    elif isinstance(node, SequenceNode):
        for position, child in enumerate(node.value):
            yield position, child.start_mark.line, child


class _Values:
    """Converts YAML nodes to plain values and counts them: an alias counts each time it is used."""

    def __init__(self, *, as_kong: bool) -> None:
        self._left = MAX_VALUES
        self._as_kong = as_kong

    def value(self, node: Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, f"aliases make more than {MAX_VALUES} values of this file")
        if depth > MAX_DEPTH:
            raise self._error(node, "is nested too deeply")
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(child, depth + 1) for child in node.value]
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        raise self._error(node, f"the tag {node.tag} is not allowed")

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        for key, child in node.value:
            if not isinstance(key, ScalarNode):
                raise self._error(key, "a key must be a plain value")
            if key.value == "<<" and key.style is None:
                merged += self._merged(child, depth)
            elif key.value in made and not self._as_kong:
                raise self._error(key, f"{key.value!r} is given twice in one mapping")
            else:
                made[_text(key)] = self.value(child, depth + 1)
        for other in merged:
            for name, value in other.items():
                made.setdefault(name, value)
        return made

    def _merged(self, node: Node, depth: int) -> list[dict[str, Any]]:
        """The mappings of a merge key (`<<: *defaults`, `<<: [*a, *b]`), highest precedence first."""
        value = self.value(node, depth + 1)
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise self._error(node, "a merge key takes mappings")
        return mappings

    def _scalar(self, node: ScalarNode) -> Any:
        text = node.value
        match str(node.tag).removeprefix(_TAG):
            case "str" | "timestamp":
                return _text(node)
            case "null":
                return None
            case "bool":
                return text.lower() in ("true", "yes", "on")  # includes YAML 1.1's words
            case "int" | "float" as kind:
                return self._number(node, kind)
        raise self._error(node, f"the tag {node.tag} is not allowed")

    def _number(self, node: ScalarNode, kind: str) -> int | float:
        text = node.value.replace("_", "").lower()
        try:
            if kind == "int":
                return int(text, 10 if text.lstrip("+-").isdecimal() else 0)
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self._error(node, f"{node.value!r:.80} is not a number") from None

    def _error(self, node: Node, reason: str) -> DocumentError:
        return DocumentError(reason, node.start_mark.line + 1)


def _text(node: ScalarNode) -> str:
    """The text of a scalar. The YAML parser reads an escaped surrogate pair as two characters; this joins them."""
    text: str = node.value
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""A configuration file read into plain values, where every value still knows its line.

YAML 1.2 and JSON. Only plain values come out: tags other than YAML's own scalars, mappings and sequences are refused,
so are duplicate keys, files over the size limits, and aliases that would multiply the file (`&a [*b, *b, ...]`).
Lines are looked up only for an error: in YAML's node tree, in JSON by walking the text down to the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_YAML = 8 << 20
"""Bytes; the YAML parser needs some three seconds and 60 MB for each of these megabytes."""
MAX_JSON = 64 << 20
MAX_VALUES = 2_000_000
"""Values after the aliases are put in; a file of the size allowed stays below, aliases of aliases do not."""
MAX_DEPTH = 100

type Path = tuple[str | int, ...]
"""Where a value is: keys and positions from the root."""

_TAG = "tag:yaml.org,2002:"
_SPACE = re.compile(r"[ \t\r\n]*")


class KongConfigError(ValueError):
    """A Kong configuration that cannot be taken: one line with file, line, entity and reason."""


class Document:
    """The root value of a file, and the line of everything in it. `name` is how errors call the file."""

    def __init__(self, name: str, root: Any, line_of: Callable[[Path], int | None]) -> None:
        self.name = name
        self.root = root
        self._line_of = line_of

    def error(self, path: Path, reason: str) -> KongConfigError:
        """The error for the value at `path`, or for the nearest one around it that exists."""
        line = self._line_of(path)
        return KongConfigError(f"{self.name}: {reason}" if line is None else f"{self.name}:{line}: {reason}")


def without_lines(name: str, root: Any) -> Document:
    """A document from values that came otherwise than from a file: an Admin API's answers."""
    return Document(name, root, lambda _: None)


def parse_document(content: bytes, name: str) -> Document:
    """The document in `content`, JSON or YAML. Raises `KongConfigError`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise KongConfigError(f"{name}:{line}: is not UTF-8") from None
    if text.lstrip()[:1] == "{" and len(content) <= MAX_JSON:
        try:
            return _parse_json(text, name)
        except ValueError:
            pass  # YAML may start with a brace as well, and its parser says better what is wrong
    if len(content) > MAX_YAML:
        raise KongConfigError(
            f"{name}: has {len(content)} bytes; YAML is read up to {MAX_YAML}, well-formed JSON up to {MAX_JSON}"
        )
    return _parse_yaml(text, name)


def _parse_json(text: str, name: str) -> Document:
    """Raises `ValueError` where this is no JSON, or has a key twice in one object."""
    try:
        root = json.loads(text, object_pairs_hook=_json_object)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return Document(name, root, lambda path: _json_line(text, path))


def _json_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise ValueError("a key is given twice")  # the YAML parser finds it again, with its line
    return made


def _json_line(text: str, path: Path) -> int:
    at = _skip_space(text, 0)
    for step in path:
        for key, start in _json_members(text, at):
            if key == step:
                at = start
                break
        else:
            break
    return text.count("\n", 0, at) + 1


def _json_members(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Key or position, and where the value starts, of the object or array that starts at `at`. The text is valid."""
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


def _parse_yaml(text: str, name: str) -> Document:
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        raise KongConfigError(f"{where}: is not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise KongConfigError(f"{name}:{line}: is not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise KongConfigError(f"{name}: is nested too deeply") from None
    root = None if node is None else _Values(name).value(node, 0)
    return Document(name, root, lambda path: _yaml_line(node, path))


def _yaml_line(node: Node | None, path: Path) -> int:
    line = 0 if node is None else node.start_mark.line
    for step in path:
        for key, at, child in _yaml_members(node):
            if key == step:
                line, node = at, child
                break
        else:
            break
    return int(line) + 1


def _yaml_members(node: Node | None) -> Iterator[tuple[Any, int, Node]]:
    if isinstance(node, MappingNode):
        for key, child in node.value:
            yield key.value, key.start_mark.line, child
    elif isinstance(node, SequenceNode):
        for position, child in enumerate(node.value):
            yield position, child.start_mark.line, child


class _Values:
    """Plain values out of YAML nodes, counted: an alias counts as often as it is used."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._left = MAX_VALUES

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
            elif key.value in made:
                raise self._error(key, f"{key.value!r} is given twice in one mapping")
            else:
                made[key.value] = self.value(child, depth + 1)
        for other in merged:
            for name, value in other.items():
                made.setdefault(name, value)
        return made

    def _merged(self, node: Node, depth: int) -> list[dict[str, Any]]:
        """The mappings that a merge key (`<<: *defaults`, `<<: [*a, *b]`) brings in, the strongest first."""
        value = self.value(node, depth + 1)
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise self._error(node, "a merge key takes mappings")
        return mappings

    def _scalar(self, node: ScalarNode) -> Any:
        text = node.value
        match str(node.tag).removeprefix(_TAG):
            case "str" | "timestamp":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
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

    def _error(self, node: Node, reason: str) -> KongConfigError:
        return KongConfigError(f"{self._name}:{node.start_mark.line + 1}: {reason}")

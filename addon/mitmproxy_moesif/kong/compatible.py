"""Converts routes without an expression as Kong's flavours `traditional_compatible` and `expressions` do.

A route becomes one or more expressions, each with a priority: one for its paths of each length, and one for all its
regular expressions. The order differs from the flavour `traditional`, although Kong calls it compatible: up to three
kinds of conditions weigh less than a regular expression among the paths, and that less than plain hosts alone; four
kinds or more outweigh both.

Source: Kong's public source for how routes are converted to expressions and ranked (facts taken from it, no code). As
there, priorities are computed with 32-bit shifts, so weights overlap.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.expressions import HEADER, HOST, METHOD, PATH, PORT, PROTOCOL, SNI
from mitmproxy_moesif.kong.indexes import in_lower_case, without_last_dot
from mitmproxy_moesif.kong.normalize import from_text

# the namespace of the ids that Kong gives to a route's expressions
_PARTS = uuid.UUID("7f145bf9-0dce-4f91-98eb-debbce4b9f6b")
_MOST_HEADERS = 255
_LONGEST_PATH = 0x7FFFF
_PLAIN_HOSTS = 1 << 60
_REGULAR_PATHS = 1 << 51


class Part(NamedTuple):
    """An expression of a route. Of all that hold, the one with the highest priority, then the highest id, is used."""

    priority: int
    id: str
    source: str


def parts_of(route: Route) -> Iterator[Part]:
    groups = _grouped(route.paths)
    for number, paths in enumerate(groups or [()], 1):
        part_id = str(uuid.uuid5(_PARTS, f"{route.id}#{number}")) if len(groups) > 1 else route.id.lower()
        yield Part(_priority(route, paths), part_id, " && ".join(_conditions(route, paths)))


def _grouped(paths: Iterable[str]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for path in paths:
        groups.setdefault(0 if path.startswith("~") else len(from_text(path)), []).append(path)
    return list(groups.values())


# --- the expression


def _conditions(route: Route, paths: Iterable[str]) -> Iterator[str]:
    if route.snis:
        yield f'({PROTOCOL} != "https" || {_any_of(partial(_wildcard, SNI), map(without_last_dot, route.snis))})'
    if route.methods:
        yield _any_of(lambda method: f"{METHOD} == {_text(method)}", route.methods)
    if route.hosts:
        yield _any_of(_host, route.hosts)
    if paths:
        yield _any_of(_path, paths)
    for name, values in route.headers.items():
        yield _any_of(partial(_header, f"any(lower({HEADER}{name.replace('-', '_')}))"), values)


def _any_of(condition: Callable[[str], str], values: Iterable[str]) -> str:
    return "(" + " || ".join(map(condition, values)) + ")"


def _wildcard(field: str, name: str) -> str:
    if name.startswith("*"):
        return f"{field} =^ {_text(name[1:])}"
    return f"{field} ^= {_text(name[:-1])}" if name.endswith("*") else f"{field} == {_text(name)}"


def _host(host: str) -> str:
    name, port = name_and_port(host)
    return _wildcard(HOST, name) if port is None else f"({_wildcard(HOST, name)} && {PORT} == {port})"


def _path(path: str) -> str:
    if path.startswith("~"):
        return f"{PATH} ~ {_text('^' + path[1:].replace('?<', '?P<'))}"
    return f"{PATH} ^= {_text(path)}"


def _header(field: str, value: str) -> str:
    if value.startswith("~*"):
        return f"{field} ~ {_text(in_lower_case(value[2:]))}"
    return f"{field} == {_text(in_lower_case(value))}"


def _text(value: str) -> str:
    if '"#' not in value:
        return f'r#"{value}"#'
    return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'


def name_and_port(host: str) -> tuple[str, int | None]:
    """Split at the first colon, if a number follows it, as Kong's router does."""
    name, _, port = host.partition(":")
    return (name, int(port[:9])) if port.isascii() and port.isdigit() else (host, None)


# --- the priority


def _priority(route: Route, paths: Iterable[str]) -> int:
    kinds = (route.methods, route.hosts, route.headers, route.snis, route.paths)
    paths = tuple(paths)
    is_regular = bool(paths) and paths[0].startswith("~")
    priority = _shifted(sum(map(bool, kinds)), 61) | _shifted(min(len(route.headers), _MOST_HEADERS), 52)
    if is_regular:
        priority |= _REGULAR_PATHS | _shifted(route.regex_priority, 19)
    elif paths:
        priority |= len(from_text(paths[0])) & _LONGEST_PATH
    if route.has_plain_hosts_only:
        priority |= _PLAIN_HOSTS
    return priority % 2**64


def _shifted(number: int, bits: int) -> int:
    """Left shift as in LuaJIT: the result is a signed 32-bit number, and the shift count is `bits` modulo 32."""
    moved = number << bits % 32 & 0xFFFFFFFF
    return moved - 2**32 if moved >= 2**31 else moved

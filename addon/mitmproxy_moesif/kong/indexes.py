"""Finds which router entries have a condition that a request meets, without looking at each entry.

The router numbers its entries. A set of entries is an `int` with one bit per entry, so that sets of thousands are
united and intersected in a few machine words each. An index maps a property of a request (host, path, headers) to the
set of entries whose condition holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mitmproxy_moesif.kong.normalize import from_text
from mitmproxy_moesif.kong.patterns import Pattern, PatternSet

type Entries = int
"""A set of entries: bit n is entry n."""


type Headers = tuple[tuple[str, tuple[str, ...]], ...]
"""Headers by name; values are in lower case and sorted."""

SPARSE = 32
"""Smaller sets are stored as lists: in a table of many thousands, a bit set per value would need too much memory."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a request's host or path hits.

    `met`: the entries whose condition holds. `key`: the value in the table that Kong considers hit, as written there,
    or else the request's own. `is_hit`: whether Kong counts it as hit.
    """

    met: Entries
    key: str | bytes
    is_hit: bool


class ByValue:
    """Entries by one of their values."""

    def __init__(self) -> None:
        self._sets: dict[Hashable, Entries | list[int]] = {}

    def add(self, value: Hashable, entry: int) -> None:
        held = self._sets.setdefault(value, [])
        if isinstance(held, list) and len(held) < SPARSE:
            held.append(entry)
        else:
            self._sets[value] = _bits(held) | 1 << entry

    def __getitem__(self, value: Hashable) -> Entries:
        return _bits(self._sets.get(value, 0))

    def __iter__(self) -> Iterator[Hashable]:
        """The values, in the order they were added."""
        return iter(self._sets)


def _bits(held: Entries | list[int]) -> Entries:
    if isinstance(held, int):
        return held
    entries = 0
    for entry in held:
        entries |= 1 << entry
    return entries


def split_port(host: str, default: int) -> tuple[str, str]:
    """The host without its port and without IPv6 brackets, and the host with its port, or `default` if it has none."""
    if host.startswith("["):
        return _split_bracketed(host, default)
    bare, colon, port = host.partition(":")
    if not colon or not port:
        return bare, f"{bare}:{default}"
    if not _is_port(port):
        return host, f"[{host}]:{default}"
    return bare, host


def _split_bracketed(host: str, default: int) -> tuple[str, str]:
    if host.endswith("]"):
        return host[1:-1], f"{host}:{default}"
    address, bracket, port = host.partition("]:")
    if bracket and not port:
        return address[1:], f"{host}{default}"
    if bracket and _is_port(port):
        return address[1:], host
    return host, f"{host}:{default}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit()


def is_wildcard(host: str) -> bool:
    return "*" in host


def without_last_dot(sni: str) -> str:
    return sni.removesuffix(".") if len(sni) > 1 else sni


def wildcard_has_port(host: str) -> bool:
    """Whether this wildcard host is limited to one port."""
    return is_wildcard(host) and _is_port(host.partition(":")[2])


type _Wildcard = tuple[bool, str, str]
"""Whether the star is on the left; the text next to it including the dot; the port, or "" for any."""


class HostIndex:
    """Entries by host. Hosts are added in order of the entries' rank: the first matching wildcard is the one hit.

    As recorded from Kong, hosts are case-sensitive. If a request has no port, wildcards assume the scheme's default
    port; a plain entry with that port counts as hit, but its condition does not hold. Wildcards are found by cutting
    the host at its dots.
    """

    def __init__(self) -> None:
        self.as_written = ByValue()
        self._plain = ByValue()
        self._wildcards: dict[_Wildcard, tuple[int, str]] = {}
        self._longest = 0

    def add(self, host: str, entry: int) -> None:
        self.as_written.add(host, entry)
        if not is_wildcard(host):
            self._plain.add(host, entry)
            return
        name, _, port = host.partition(":")
        wildcard = (name.startswith("*"), name.strip("*"), port)
        self._wildcards.setdefault(wildcard, (len(self._wildcards), host))
        self._longest = max(self._longest, len(wildcard[1]))

    def hit(self, host: str | None, default_port: int) -> Hit:
        if host is None:
            return Hit(0, "", False)
        bare, full = split_port(host, default_port)
        is_plain = bool(self._plain[bare] or self._plain[full])
        wildcards = sorted(self._fitting(full)) if self._wildcards else []
        met = self._plain[bare] | self._plain[host]
        for _, wildcard in wildcards:
            met |= self.as_written[wildcard]
        key = host if is_plain or not wildcards else wildcards[0][1]
        return Hit(met, key, is_plain or bool(wildcards))

    def _fitting(self, full: str) -> Iterator[tuple[int, str]]:
        """The wildcards that match a host with port, each with its position in the order."""
        name, _, port = full.rpartition(":")
        for dot in _dots_from_left(name, self._longest):
            yield from self._at(False, name[: dot + 1], port if dot + 1 < len(name) else "")
        for dot in _dots_from_right(name, self._longest):
            yield from self._at(True, name[dot:], port)

    def _at(self, is_left: bool, text: str, port: str) -> Iterator[tuple[int, str]]:
        for of_port in {"", port}:
            found = self._wildcards.get((is_left, text, of_port))
            if found is not None:
                yield found


def _dots_from_left(name: str, longest: int) -> Iterator[int]:
    dot = name.find(".", 0, longest)
    while dot >= 0:
        yield dot
        dot = name.find(".", dot + 1, longest)


def _dots_from_right(name: str, longest: int) -> Iterator[int]:
    """The positions of dots from the right; the star needs at least one character before the dot."""
    start = max(1, len(name) - longest)
    dot = name.rfind(".", start)
    while dot >= 0:
        yield dot
        dot = name.rfind(".", start, dot)


class PrefixTree:
    """Finds which of many prefixes a path starts with. They are sorted; each has a link to its own longest prefix."""

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        self._prefixes = sorted(set(prefixes))
        self._parents: list[int] = []
        for position, prefix in enumerate(self._prefixes):
            self._parents.append(self._longest(prefix, position - 1))

    def of(self, path: bytes) -> Iterator[bytes]:
        """The prefixes of `path`, longest first."""
        position = self._longest(path, bisect_right(self._prefixes, path) - 1)
        while position >= 0:
            yield self._prefixes[position]
            position = self._parents[position]

    def _longest(self, path: bytes, position: int) -> int:
        """The position of the longest prefix of `path`, found from the last prefix in sort order that is not after it;
        -1 if there is none."""
        while position >= 0 and not path.startswith(self._prefixes[position]):
            position = self._parents[position]
        return position


class PathIndex:
    """Entries by path. `prefixes` and `expressions` are pairs of path and entry; `expressions` in order of rank."""

    def __init__(self, prefixes: Sequence[tuple[bytes, int]], expressions: Sequence[tuple[bytes, int]]) -> None:
        self.as_written, self._plain, self._regular = ByValue(), ByValue(), ByValue()
        for path, entry in prefixes:
            self._plain.add(path, entry)
            self.as_written.add(path, entry)
        for path, entry in expressions:
            self._regular.add(path, entry)
            self.as_written.add(path, entry)
        self._tree = PrefixTree(path for path, _ in prefixes)
        self._expressions = list(dict.fromkeys(path for path, _ in expressions))
        self._patterns = PatternSet([Pattern(path) for path in self._expressions])

    def hit(self, path: bytes) -> Hit:
        prefixes = list(self._tree.of(path))
        expressions = [self._expressions[position] for position in self._patterns.matching(path)]
        met = 0
        for prefix in prefixes:
            met |= self._plain[prefix]
        for expression in expressions:
            met |= self._regular[expression]
        hits = expressions[:1] or prefixes[:1]
        key = hits[0] if hits else path
        # Kong only looks up the key among the paths as written: a prefix with the same text as the expression that was
        # hit counts as met too
        return Hit(met | self.as_written[key], key, bool(hits))


_LOWER = {capital: capital + 32 for capital in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def in_lower_case(value: str) -> str:
    """Lower-case a value as Kong does: only ASCII letters."""
    return value.lower() if value.isascii() else value.translate(_LOWER)


def values_of(headers: Mapping[str, Sequence[str]], name: str) -> Sequence[str]:
    """The values of a header as Kong finds them; if there is none, of the header with `-` in place of each `_`."""
    return headers.get(name) or headers.get(name.replace("_", "-"), ())


class HeaderIndex:
    """Entries by header. An entry may name several headers; each must have one of its values, in any case."""

    def __init__(self) -> None:
        self.naming = ByValue()
        self._values = ByValue()
        self._expressions: dict[str, dict[str, Pattern]] = {}
        self._matching = ByValue()

    def add(self, name: str, values: Sequence[str], entry: int) -> None:
        self.naming.add(name, entry)
        for value in values:
            self._values.add((name, in_lower_case(value)), entry)
        if len(values) == 1 and values[0].startswith("~*"):
            source = values[0].removeprefix("~*")
            self._expressions.setdefault(name, {}).setdefault(source, Pattern(from_text(source)))
            self._matching.add((name, source), entry)

    def relevant(self, headers: Mapping[str, Sequence[str]]) -> Headers:
        """The headers of a request that some entry names, in the order the entries name them."""
        return tuple(
            (name, tuple(sorted(map(in_lower_case, values))))
            for name in self.naming
            if isinstance(name, str) and (values := values_of(headers, name))
        )

    def unmet(self, headers: Headers) -> Entries:
        """Entries that name a header which is missing or has another value."""
        given = dict(headers)
        unmet = 0
        for name in self.naming:
            naming = self.naming[name]
            unmet |= naming & ~self._met(name, given[name]) if isinstance(name, str) and name in given else naming
        return unmet

    def _met(self, name: str, values: tuple[str, ...]) -> Entries:
        met = 0
        for value in values:
            met |= self._values[name, value]
        for source, pattern in self._expressions.get(name, {}).items():
            if any(pattern.search(from_text(value)) for value in values):
                met |= self._matching[name, source]
        return met

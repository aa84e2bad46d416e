"""The gate's parameters as mitmproxy options. Precedence: `--set`, then mitmproxy's config.yaml, then the default."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from mitmproxy import optmanager
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.utils import typecheck

from mitmproxy_moesif.jwt_gate.settings import PREFIX, GateSettings, shown
from mitmproxy_moesif.options import option_type

NAMES = frozenset(GateSettings.model_fields)


def register(loader: Loader) -> None:
    """Add every parameter as a typed option with its help."""
    for name, field in GateSettings.model_fields.items():
        typespec, default = option_type(field)
        loader.add_option(name, typespec, default, field.description or "")


def read_given(options: optmanager.OptManager) -> dict[str, Any]:
    return {name: getattr(options, name) for name in GateSettings.model_fields}


def prefer_command_line(options: optmanager.OptManager, arguments: Sequence[str]) -> None:
    """`--set` beats config.yaml. mitmproxy reads the file last, so it would be the other way round."""
    given: dict[str, list[str]] = {}
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        spec = following if flag == "--set" else flag.removeprefix("--set=") if flag.startswith("--set=") else ""
        name, equals, value = spec.partition("=")
        if name in NAMES:
            given.setdefault(name, []).extend([value] if equals else [])
    for name, values in given.items():
        if name in options.deferred:
            options.deferred[name] = optmanager._UnconvertedStrings(values)  # noqa: SLF001 - as mitmproxy does


def take_unparsable(options: optmanager.OptManager) -> Iterator[str]:
    """A value of the wrong type would drop all addons of the script: take such values out, and tell of each."""
    for name in sorted(NAMES & set(options.deferred)):
        value = options.deferred[name]
        typespec, default = option_type(GateSettings.model_fields[name])
        given = value.val if isinstance(value, optmanager._UnconvertedStrings) else value  # noqa: SLF001
        try:
            if given is not value:
                probe = optmanager._Option(name, typespec, default, "", None)  # noqa: SLF001
                options._parse_setval(probe, given)  # noqa: SLF001 - parsed as mitmproxy will
            else:
                typecheck.check_option_type(name, value, typespec)
        except (OptionsError, TypeError):
            del options.deferred[name]
            yield f"{name}: must be {_EXPECTED[typespec]}, {shown(name, given)} was given"


_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    str | None: "one text",
    Sequence[str]: "a list of texts",
}


def unknown_options(options: optmanager.OptManager) -> Iterator[str]:
    """Names that no addon has taken by the end of the start: a gate must not stay open for a typing error."""
    for name in options.deferred:
        if name.startswith(PREFIX):
            close = difflib.get_close_matches(name, NAMES, n=1)
            yield f"{name}: there is no such option{f'; did you mean {close[0]}?' if close else ''}"

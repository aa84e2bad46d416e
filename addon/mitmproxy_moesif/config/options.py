"""The parameter table as mitmproxy options and environment variables.

Precedence: `--set`, then mitmproxy's config.yaml (both arrive as options), then the environment, then the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mitmproxy import optmanager
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.utils import typecheck
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from mitmproxy_moesif.config.fields import Property, SettingsError, choices, parameters_with, plain_types, shown
from mitmproxy_moesif.config.settings import AKTO_PREFIX, Settings, option_name
from mitmproxy_moesif.config.text import did_you_mean, normal

FAMILIES = ("moesif_", AKTO_PREFIX)
ENVIRONMENT_PREFIX = "MOESIF_"
"""All names with this prefix are ours; names with `AKTO_` are also used by Akto's own software."""

ENVIRONMENT: Mapping[str, str] = {option_name(name).upper(): name for name in Settings.model_fields}

# Kubernetes injects these for any service called moesif, or moesif-...; they are not typing errors.
_SERVICE_LINK = re.compile(
    r"MOESIF(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

UNSET = optmanager.unset
"""The value of an option that was not given, so that its default applies."""

SWITCHES = dict.fromkeys(("1", "yes", "y", "on", "t", "true"), "true") | dict.fromkeys(
    ("0", "no", "n", "off", "f", "false"), "false"
)
"""The words for true and false that `--set` accepts, as the environment does; mitmproxy takes only "true", "false"."""


@dataclass(frozen=True, slots=True)
class OptionTable:
    """The fields of a pydantic model as mitmproxy options; `option` returns the option's name of a field.

    `families` are the prefixes of all these options' names, by which misspelt ones are recognized too.
    """

    model: type[BaseModel]
    option: Callable[[str], str]
    families: tuple[str, ...]

    @property
    def files(self) -> frozenset[str]:
        """The options that name files."""
        return frozenset(map(self.option, parameters_with(self.model, Property.FILE)))

    def register(self, loader: Loader) -> None:
        """Add every parameter as a typed option with its help."""
        for name, field in self.model.model_fields.items():
            typespec, default = option_type(field)
            loader.add_option(self.option(name), typespec, default, field.description or "", choices(field))

    def prefer_command_line(self, options: optmanager.OptManager, arguments: Sequence[str]) -> None:
        """Let `--set` override config.yaml. mitmproxy reads the file last, so the file would override `--set`."""
        given: dict[str, list[str]] = {}
        for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
            spec = following if flag == "--set" else flag.removeprefix("--set=") if flag.startswith("--set=") else ""
            name, equals, value = spec.partition("=")
            if name.startswith(self.families):
                given.setdefault(name, []).extend([value] if equals else [])
        for name, values in given.items():
            if name in options.deferred:
                options.deferred[name] = optmanager._UnconvertedStrings(values)  # noqa: SLF001 - as mitmproxy does

    def take_unparsable(self, options: optmanager.OptManager) -> Iterator[str]:
        """Remove values of the wrong type, which would silently unload the whole addon; yields a message for each."""
        for name, field in self.model.model_fields.items():
            key = self.option(name)
            if key not in options.deferred:
                continue
            value = options.deferred[key]
            typespec, default = option_type(field)
            given = value.val if isinstance(value, optmanager._UnconvertedStrings) else value  # noqa: SLF001
            if typespec is bool and given is not value:
                given = options.deferred[key].val = [SWITCHES.get(text.lower(), text) for text in given]
            try:
                if given is not value:
                    if not given and isinstance(field.default, SecretStr):
                        raise OptionsError  # mitmproxy would treat it as None
                    probe = optmanager._Option(key, typespec, default, "", None)  # noqa: SLF001
                    options._parse_setval(probe, given)  # noqa: SLF001 - parsed as mitmproxy will
                else:
                    typecheck.check_option_type(key, value, typespec)
            except (OptionsError, TypeError):
                del options.deferred[key]
                if given is not value and not given:
                    yield f"{name}: no value was given: --set {key}=..."
                    continue
                as_given = given[0] if given is not value and len(given) == 1 else given
                yield f"{name}: must be {_expected(typespec)}, {shown(self.model, name, as_given)} was given"

    def claims(self, key: str) -> bool:
        """Whether we, not mitmproxy, report that there is no such option."""
        return normal(key).startswith(self.families) or normal(key) in self.model.model_fields

    def unknown_options(self, options: optmanager.OptManager) -> Iterator[str]:
        """Yields a message for each misspelt option; mitmproxy keeps these deferred for ever without an error."""
        for key in options.deferred:
            if self.claims(key):
                yield f"{key}: there is no such option{did_you_mean(key, options.keys())}"


def option_type(field: FieldInfo) -> tuple[Any, Any]:
    """The type and default of a parameter's mitmproxy option."""
    default = field.default
    if isinstance(default, SecretStr):
        return str | None, None
    if isinstance(default, tuple):
        return Sequence[str], list(default)
    if default is None:
        return (int | None if int in plain_types(field.annotation) else str | None), None
    return type(default), default


def given_options(options: optmanager.OptManager) -> dict[str, Any]:
    """The parameters given by `--set`, config.yaml or a live change, even if equal to the default."""
    given = {}
    for name in Settings.model_fields:
        option = options._options[option_name(name)]  # noqa: SLF001 - the only place that tells given from default
        if option.value is not optmanager.unset:
            given[name] = current(option.current())
    return given


def current(value: Any) -> Any:
    """An option's value. `--set name=` means an empty list, which mitmproxy turns into a list with an empty text."""
    return [] if value in ([""], ("",)) else value


def given_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The parameters given by the environment. Raises `SettingsError` for an unknown name."""
    given = {}
    for key, value in environ.items():
        if key in ENVIRONMENT:
            given[ENVIRONMENT[key]] = value
        elif key.startswith(ENVIRONMENT_PREFIX) and not _SERVICE_LINK.fullmatch(key):
            meant = did_you_mean(key, ENVIRONMENT)
            if normal(key).removeprefix("moesif_").startswith("jwt_"):
                meant = "; the JWT gate's are options only: --set jwt_gate=true"
            raise SettingsError(f"environment variable {key}: there is no such parameter{meant}")
    return given


def given_settings(settings: Sequence[str]) -> dict[str, str]:
    """The parameters given by `--set moesif_name=value` without mitmproxy. Raises `SettingsError`."""
    names = {option_name(name): name for name in Settings.model_fields}
    given = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals or option not in names:
            raise SettingsError(f"{option}: there is no such option{did_you_mean(option, names)}")
        given[names[option]] = value
    return given


def read_given(
    options: optmanager.OptManager, environ: Mapping[str, str], changes: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """All given parameters, as they will be after `changes`. Raises `SettingsError`."""
    given = {**given_options(options), **changes}
    return given_environment(environ) | {name: value for name, value in given.items() if value is not UNSET}


def _expected(typespec: Any) -> str:
    if typespec is bool:
        return "true or false"
    if typespec in (int, int | None):
        return "a whole number"
    return "a list of texts" if typespec == Sequence[str] else "one text"


PARAMETERS = OptionTable(Settings, option_name, FAMILIES)

"""The options of `moesif-proxy`, from its command line and a YAML file, at startup and again on SIGHUP.

The command line overrides the file. The file uses mitmproxy's option names, ours with their `moesif_` prefix. Options
in neither come from the environment (`MOESIF_...`) or are the default. An invalid file changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, optmanager
from mitmproxy.utils import typecheck

from mitmproxy_moesif.config import proxy_defaults
from mitmproxy_moesif.config.files import configured_files
from mitmproxy_moesif.config.live import put
from mitmproxy_moesif.config.options import PARAMETERS
from mitmproxy_moesif.config.text import did_you_mean
from mitmproxy_moesif.jwt_gate.options import PARAMETERS as GATE_PARAMETERS
from mitmproxy_moesif.proxy.arguments import Arguments

UPSTREAM_FILES = frozenset({"client_certs", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"})
"""Options that name files for TLS to the upstream."""

FILES = frozenset({"certs"}) | UPSTREAM_FILES | PARAMETERS.files | GATE_PARAMETERS.files
"""Options that name files. They are read again on SIGHUP: some are not watched, others only with a delay."""

KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    int | None: "a whole number",
    str: "text (a number needs quotes)",
    str | None: "text (a number needs quotes)",
    Sequence[str]: "a list of texts",
}
"""The types of mitmproxy's options, described as for our own options."""


class ConfigurationError(ValueError):
    """An invalid configuration: one line that names the option but not its value, which may be a secret."""


class Configuration:
    """Sets the options of one proxy."""

    def __init__(self, options: optmanager.OptManager, arguments: Arguments) -> None:
        self._options = options
        self._arguments = arguments
        self._own = dedicated(arguments)
        self._given = {setting.partition("=")[0] for setting in arguments.settings} | set(self._own)
        self._from_file: set[str] = set()

    def start(self) -> None:
        """Set all options for the first time. Options that no addon has registered yet are deferred."""
        wanted = self._read()
        if self._arguments.upstream is None and "mode" not in wanted:
            raise ConfigurationError("there is no upstream: give --upstream URL")
        for name in wanted.keys() & self._options._options.keys():  # noqa: SLF001
            self._check_type(name, wanted[name])
        with refusals(""):
            self._options.update_defer(**wanted)
        for name, settings in self._settings().items():
            with refusals(name):
                self._options.set(*settings, defer=True)
        with refusals(""):
            self._options.update_defer(**self._own)
        self._took(wanted)

    def _settings(self) -> dict[str, list[str]]:
        """The command line's settings by name; a list is given as several settings."""
        by_name: dict[str, list[str]] = {}
        for setting in self._arguments.settings:
            by_name.setdefault(setting.partition("=")[0], []).append(setting)
        return by_name

    def reload(self, overlaid: Collection[str]) -> set[str]:
        """Read the file again and apply it, all of it or nothing. Returns the names of the options that changed.

        Options changed by the Admin API (`overlaid`) stay as they are.
        """
        wanted = self._read()
        self._check(wanted)
        known = self._options._options  # noqa: SLF001 - the only way to tell unset from default, and to go back to it
        gone = {name for name in self._from_file - set(wanted) if name in known}
        changed = {name for name, value in wanted.items() if known[name].value != value}
        changed |= {name for name in gone if known[name].value is not optmanager.unset}
        changed -= set(overlaid)
        self._apply({name: wanted.get(name, optmanager.unset) for name in changed})
        self._took(wanted)
        return changed

    def _took(self, wanted: Mapping[str, Any]) -> None:
        self._from_file = set(wanted)
        if self._arguments.config is not None:
            configured_files.in_force(self._arguments.config)

    def _apply(self, values: Mapping[str, Any]) -> None:
        known = self._options._options  # noqa: SLF001
        # A file's content may have changed under the same name, so its addon is notified as if the name had changed.
        renewed = {name for name in FILES if name in known and known[name].current()}
        try:
            put(self._options, values, renewed)
        except exceptions.OptionsError as error:
            raise ConfigurationError(one_line(error)) from None
        proxy_defaults.set_defaults(self._options)

    def _check(self, wanted: Mapping[str, Any]) -> None:
        for name, value in wanted.items():
            if name not in self._options:
                raise ConfigurationError(unknown(name, self._options.keys()))
            self._check_type(name, value)

    def _check_type(self, name: str, value: object) -> None:
        kind = self._options._options[name].typespec  # noqa: SLF001
        try:
            typecheck.check_option_type(name, value, kind)
        except TypeError:
            raise ConfigurationError(f"{name}: must be {KINDS[kind]} in {self._arguments.config}") from None

    @property
    def has_file(self) -> bool:
        return self._arguments.config is not None

    def _read(self) -> dict[str, Any]:
        """The options in the file that are not on the command line."""
        if self._arguments.config is None:
            return {}
        content = read(self._arguments.config)
        for name in ("listen_host", "listen_port"):
            if name in content:
                raise ConfigurationError(f"{name}: is given by --listen")
        if not is_reverse(content.get("mode", ["reverse:http://"])):
            raise ConfigurationError("mode: must be a list of one reverse:http://... or reverse:https://...")
        return {name: value for name, value in content.items() if name not in self._given}


def dedicated(arguments: Arguments) -> dict[str, Any]:
    """The options that are set by dedicated arguments, such as `--listen`."""
    options: dict[str, Any] = {"listen_host": arguments.listen.host, "listen_port": arguments.listen.port}
    if arguments.upstream is not None:
        options["mode"] = [f"reverse:{arguments.upstream}"]
    if arguments.tls_cert is not None:
        options["certs"] = [f"*={arguments.tls_cert}"]
    if arguments.scripts:
        options["scripts"] = list(arguments.scripts)
    return options


def is_reverse(modes: object) -> bool:
    match modes:
        case [str(mode)]:
            return mode.startswith(("reverse:http://", "reverse:https://"))
    return False


def read(path: Path) -> dict[str, Any]:
    """The options of a YAML file. Raises `ConfigurationError`."""
    try:
        content = optmanager.parse(configured_files.read(path).decode())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8") from None
    except exceptions.OptionsError as error:
        raise ConfigurationError(f"{path}: {one_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"{path}: must be a mapping of option names to values")
    if scripts := content.get("scripts"):
        content["scripts"] = [str(optmanager.relative_path(each, relative_to=path.parent)) for each in scripts]
    return content


def unknown(name: str, known: Iterable[str]) -> str:
    return f"{name}: there is no such option{did_you_mean(name, known)}"


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn mitmproxy's errors into `ConfigurationError`. Not every version of mitmproxy names the option."""
    try:
        yield
    except (exceptions.OptionsError, TypeError) as error:
        reason = one_line(error)
        raise ConfigurationError(reason if name in reason else f"{name}: {reason}") from None


def one_line(error: Exception) -> str:
    """The error on one line, without credentials in URLs, which mitmproxy's messages quote."""
    return re.sub(r"\S+@", "...@", " ".join(str(error).split()))

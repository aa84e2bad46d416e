"""Reads Kong's configuration from a declarative file, which is watched, or from the Admin API, which is polled.

A background thread passes each changed configuration to `changed`. If it cannot be read, or is refused, one error line
is logged, and the last good one remains in use. The Admin API's last response is saved next to the spool for a start
while the API is unavailable.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from mitmproxy_moesif.backoff import Backoff
from mitmproxy_moesif.config.files import configured_files, replace_file
from mitmproxy_moesif.config.settings import Settings, SettingsError
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.config.watch import WATCH_SECONDS, FileWatch, Periodic
from mitmproxy_moesif.kong.declarative import (
    MEMBERS,
    Check,
    KongConfigError,
    from_admin_api,
    load_declarative,
    unchecked,
)
from mitmproxy_moesif.kong.entities import FLAVORS, Flavor, KongConfig
from mitmproxy_moesif.kong.scopes import CAPTURING
from mitmproxy_moesif.log import log

if TYPE_CHECKING:
    import requests

    from mitmproxy_moesif.web.session import DeadlineSession

REFRESH = 30.0
CALL_SECONDS = 10.0
MAX_PAGES = 10_000

STAYS = "keeping the previous configuration"
NOTHING_YET = "retrying; nothing is captured until it answers"

type Changed = Callable[[KongConfig], None]


def read_kong_config(settings: Settings, check: Check = unchecked) -> KongConfig | None:
    """The configuration in the file or Admin API now; None if neither is set. Raises `SettingsError` with one line."""
    try:
        if settings.kong_config is not None:
            return load_declarative(Path(settings.kong_config), check)
        if settings.kong_admin_url is not None:
            url, token = settings.kong_admin_url, settings.kong_admin_token.get_secret_value()
            return parse_listings(configured_files.get(url, lambda: fetch(url, token)), check)
    except KongConfigError as error:
        name = "kong_config" if settings.kong_config is not None else "kong_admin_url"
        raise SettingsError(f"{name}: {error}") from error
    except OSError as error:
        raise KongAwayError(f"kong_admin_url: {_why_away(error, settings.kong_admin_url or '')}") from error
    return None


def _why_away(error: OSError, url: str) -> str:
    from mitmproxy_moesif.web.session import network_reason  # imports requests

    return str(error) if isinstance(error, KongFaultError) else network_reason(error, url)


def first_kong_config(settings: Settings, last: LastListings, check: Check) -> KongConfig | None:
    """The configuration at start. If Kong's Admin API is unavailable, the saved one; None if there is none."""
    try:
        return read_kong_config(settings, check)
    except KongAwayError as error:
        if (config := last.read(check)) is not None:
            log.warning("moesif: %s; using the last known configuration until it answers", error)
        else:
            log.warning("moesif: %s; %s", error, NOTHING_YET)
        return config


class KongFaultError(OSError):
    """The Admin API responds with a server error (status 500 or above). The text is ours."""


class KongAwayError(SettingsError):
    """Kong's Admin API is unavailable now."""


class LastListings:
    """The last response of Kong's Admin API, saved next to the spool in a file that only its owner may read."""

    def __init__(self, folder: Path | None, url: str | None) -> None:
        name = f"kong-{hashlib.sha256((url or '').encode()).hexdigest()[:16]}.json"
        self._path = folder / name if folder is not None and url is not None else None

    def read(self, check: Check) -> KongConfig | None:
        if self._path is None:
            return None
        try:
            return parse_listings(self._path.read_bytes(), check)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            log.warning("moesif: %s cannot be read: %s", self._path, why)
            return None

    def write(self, listings: bytes) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, listings)
        except OSError as error:
            log.warning("moesif: %s cannot be written: %s", self._path, error.strerror)


def fetch(base: str, token: str) -> bytes:
    """All entities of Kong's Admin API, as JSON. Raises `KongConfigError`, or `OSError` if it is unavailable."""
    from mitmproxy_moesif.web.session import DeadlineSession  # imports requests, which few starts need

    headers = {"Kong-Admin-Token": token} if token else {}
    with DeadlineSession() as session:
        session.headers.update(headers)
        version, flavor = _version_and_flavor(session, base)
        kinds = {kind: _pages(session, base, kind) for kind in ("services", "routes", "plugins", "consumers")}
        if any(map(_is_for_group, kinds["plugins"])):
            kinds["consumer_groups"] = _groups(session, base)
            kinds[MEMBERS] = []
    return orjson.dumps({"version": version, "flavor": flavor, **kinds})


def parse_listings(listings: bytes, check: Check = unchecked) -> KongConfig:
    """The configuration in saved or fetched listings. Raises `KongConfigError`."""
    return from_admin_api(**orjson.loads(listings), check=check)


def _version_and_flavor(session: DeadlineSession, base: str) -> tuple[str, Flavor]:
    """The format version of this Kong's configuration, and its router's flavour; traditional if not given.

    Konnect has no `GET /` and is always 3.0 or newer.
    """
    answer = _get(session, f"{base}/")
    if answer.status_code == 404:
        return "3.0", "traditional"
    if answer.status_code != 200:
        raise KongConfigError(f"{base}/: status {answer.status_code}, but Kong's version is needed to read paths")
    try:
        told = orjson.loads(answer.content)
        major = int(str(told["version"]).partition(".")[0])
    except (ValueError, KeyError, TypeError) as error:
        raise KongConfigError(f"{base}/: the response does not contain Kong's version") from error
    configuration = told.get("configuration")
    flavor = configuration.get("router_flavor") if isinstance(configuration, dict) else None
    return "3.0" if major >= 3 else "2.1", flavor if flavor in FLAVORS else "traditional"


def _is_for_group(plugin: object) -> bool:
    """Whether it is an instance of ours for a consumer group. Malformed plugins are refused later."""
    match plugin:
        case {"name": str(name), "consumer_group": group}:
            return name in CAPTURING and bool(group)
    return False


def _groups(session: DeadlineSession, base: str) -> list[dict[str, Any]]:
    """The consumer groups, each with its `consumers`."""
    groups = _pages(session, base, "consumer_groups")
    return [
        {**group, "consumers": _pages(session, base, f"consumer_groups/{group['id']}/consumers", "consumers")}
        for group in groups
    ]


def _get(session: DeadlineSession, url: str) -> requests.Response:
    """GET a URL. Raises `OSError`, also if Kong or a proxy in front of it responds with status 500 or above."""
    with session.deadline(CALL_SECONDS):
        answer = session.get(url, timeout=CALL_SECONDS, allow_redirects=False)
    if answer.status_code >= 500:
        raise KongFaultError(f"it answers with status {answer.status_code}")
    return answer


def _pages(session: DeadlineSession, base: str, kind: str, listed: str = "data") -> list[dict[str, Any]]:
    """All entities of a kind, from all pages. Pages are linked by `next`, a path or a URL.

    Entities are in the array `data`, or `listed` in responses for nested kinds.
    """
    found: list[dict[str, Any]] = []
    url: str | None = f"{base}/{kind}?size=1000"
    for _ in range(MAX_PAGES):
        if url is None:
            return found
        answer = _get(session, url)
        if answer.status_code != 200:
            raise KongConfigError(f"{base}/{kind}: status {answer.status_code}")
        try:
            page = orjson.loads(answer.content)
            found += page["data" if "data" in page else listed]
            query = urlsplit(page["next"]).query if page.get("next") else None
            if query == "":
                raise ValueError("a link that leads to the same page")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KongConfigError(f"{base}/{kind}: not a response of Kong's Admin API") from error
        # Only the query of `next` is used, so that the token is never sent to another host.
        url = f"{base}/{kind}?{query}" if query is not None else None
    raise KongConfigError(f"{base}/{kind}: more than {MAX_PAGES} pages")


def _size(config: KongConfig) -> str:
    entries = [plugin for plugin in config.plugins if plugin.name in CAPTURING and plugin.enabled]
    known = (("service", config.services), ("route", config.routes), ("instance", entries))
    return ", ".join(number_of(len(each), name) for name, each in known)


class KongSource(Periodic):
    """Watches the source named in `settings`, from `start` until `stop`. `current` is None if not yet known."""

    def __init__(
        self,
        settings: Settings,
        changed: Changed,
        current: KongConfig | None,
        check: Check,
        last: LastListings,
    ) -> None:
        super().__init__("moesif-kong", WATCH_SECONDS, self._look)
        self._settings = settings
        self._check = check
        self._changed = changed
        self._current = current
        self._last = last
        # Always read once more, since the file may have changed after it was read and before it was watched.
        self._file = FileWatch(settings.kong_config, None)
        self._due = time.monotonic()
        self._pauses = Backoff(WATCH_SECONDS, REFRESH)
        self._trouble: str | None = None

    def start(self) -> None:
        if self._current is not None:
            self._in_force()
        super().start()

    def _look(self) -> None:
        if not (self._file.changed() if self._settings.kong_config is not None else time.monotonic() >= self._due):
            return
        try:
            config = read_kong_config(self._settings, self._check)
            if config is not None and config != self._current:
                self._changed(config)
                self._current = config
                self._in_force()
                log.info("moesif: Kong's configuration changed and was applied: %s", _size(config))
            self._trouble = None
            self._pauses.reset()
            self._due = time.monotonic() + REFRESH
        except SettingsError as error:
            if self._trouble != str(error):
                log.error("moesif: %s; %s", error, NOTHING_YET if self._current is None else STAYS)
            self._trouble = str(error)
            self._due = time.monotonic() + self._pauses.failed()

    def _in_force(self) -> None:
        settings = self._settings
        content = configured_files.in_force(settings.kong_config or settings.kong_admin_url or "")
        if content is not None and settings.kong_config is None:
            self._last.write(content)

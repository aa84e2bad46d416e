"""Where Kong's configuration comes from: a declarative file that is watched, or the Admin API that is asked.

A background thread; each configuration that differs from the last is handed to `changed`. What cannot be read, or is
refused, leaves the last good one in force, with one error line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import orjson

from mitmproxy_moesif.config.settings import Settings, SettingsError
from mitmproxy_moesif.config.watch import WATCH_SECONDS, FileWatch, Periodic
from mitmproxy_moesif.kong.declarative import (
    MEMBERS,
    Check,
    KongConfigError,
    from_admin_api,
    load_declarative,
    unchecked,
)
from mitmproxy_moesif.kong.entities import KongConfig
from mitmproxy_moesif.kong.scopes import CAPTURING
from mitmproxy_moesif.log import log

if TYPE_CHECKING:
    from mitmproxy_moesif.web.session import DeadlineSession

REFRESH = 30.0
CALL_SECONDS = 10.0
MAX_PAGES = 10_000

type Changed = Callable[[KongConfig], None]


def read_kong_config(settings: Settings, check: Check = unchecked) -> KongConfig | None:
    """What the file or the Admin API says now; None where neither is configured. Raises `SettingsError`, one line."""
    try:
        if settings.kong_config is not None:
            return load_declarative(Path(settings.kong_config), check)
        if settings.kong_admin_url is not None:
            return fetch(settings.kong_admin_url, settings.kong_admin_token.get_secret_value(), check)
    except KongConfigError as error:
        raise SettingsError(f"kong_config: {error}") from error
    except OSError as error:
        raise SettingsError(f"kong_admin_url: {type(error).__name__}") from error
    return None


def fetch(base: str, token: str, check: Check = unchecked) -> KongConfig:
    """All entities from Kong's Admin API. Raises `KongConfigError` and `OSError`, as those of requests are."""
    from mitmproxy_moesif.web.session import DeadlineSession  # brings requests, which few starts need

    headers = {"Kong-Admin-Token": token} if token else {}
    with DeadlineSession() as session:
        session.headers.update(headers)
        version = _format_version(session, base)
        kinds = {kind: _pages(session, base, kind) for kind in ("services", "routes", "plugins", "consumers")}
        if any(plugin.get("name") in CAPTURING and plugin.get("consumer_group") for plugin in kinds["plugins"]):
            kinds["consumer_groups"] = _groups(session, base)
            kinds[MEMBERS] = []
    return from_admin_api(**kinds, version=version, check=check)


def _format_version(session: DeadlineSession, base: str) -> str:
    """That of the configurations of this Kong. Konnect, which has no `GET /`, is never older than 3.0."""
    answer = _get(session, f"{base}/")
    if answer.status_code == 404:
        return "3.0"
    if answer.status_code != 200:
        raise KongConfigError(f"{base}/: status {answer.status_code}, and Kong's version decides how paths are read")
    try:
        major = int(str(orjson.loads(answer.content)["version"]).partition(".")[0])
    except (ValueError, KeyError, TypeError) as error:
        raise KongConfigError(f"{base}/: the answer does not tell Kong's version") from error
    return "3.0" if major >= 3 else "2.1"


def _groups(session: DeadlineSession, base: str) -> list[dict[str, Any]]:
    """The groups of consumers, each with its `consumers`."""
    groups = _pages(session, base, "consumer_groups")
    return [
        {**group, "consumers": _pages(session, base, f"consumer_groups/{group['id']}/consumers", "consumers")}
        for group in groups
    ]


def _get(session: DeadlineSession, url: str) -> requests.Response:
    with session.deadline(CALL_SECONDS):
        return session.get(url, timeout=CALL_SECONDS, allow_redirects=False)


def _pages(session: DeadlineSession, base: str, kind: str, listed: str = "data") -> list[dict[str, Any]]:
    """All entities of a kind: pages are linked by `next`, as path or whole URL of the same Admin API.

    They are listed as `data`, or as Kong calls it where it nests them.
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
            following = page.get("next")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KongConfigError(f"{base}/{kind}: the answer is not Kong's") from error
        # Only its path and query count: the token goes to nobody else.
        url = urljoin(f"{base}/", _relative(following)) if following else None
    raise KongConfigError(f"{base}/{kind}: more than {MAX_PAGES} pages")


def _relative(link: str) -> str:
    path = link.partition("://")[2].partition("/")[2] if "://" in link else link
    return path.lstrip("/")


class KongSource:
    """Watches what `settings` name, from `start` until `stop`."""

    def __init__(
        self, settings: Settings, changed: Changed, current: KongConfig | None, check: Check = unchecked
    ) -> None:
        self._settings = settings
        self._check = check
        self._changed = changed
        self._current = current
        # Read once more in any case, since it may have changed between being read and being watched.
        self._file = FileWatch(settings.kong_config, None)
        self._trouble: str | None = None
        seconds = WATCH_SECONDS if settings.kong_config is not None else REFRESH
        self._thread = Periodic("moesif-kong", seconds, self._look)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def _look(self) -> None:
        if self._settings.kong_config is not None and not self._file.changed():
            return
        try:
            config = read_kong_config(self._settings, self._check)
            if config is not None and config != self._current:
                self._changed(config)
                self._current = config
                log.info("moesif: Kong's configuration changed and is in force")
            self._trouble = None
        except SettingsError as error:
            if self._trouble != str(error):
                log.error("moesif: %s; the configuration that was there stays in force", error)
            self._trouble = str(error)

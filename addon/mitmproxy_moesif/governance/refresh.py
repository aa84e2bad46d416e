"""Keeps Moesif's configuration and rules, and local rules, ready for the request path.

A background thread fetches `GET /v1/config` and `GET /v1/rules` at start, every minute, and when the response to a
batch says that they changed. The result becomes one immutable snapshot, swapped in one step; after any failure the last
good one remains. It is saved next to the spool, so that a start without a connection to Moesif enforces the last known
rules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mitmproxy_moesif import __version__
from mitmproxy_moesif.config.files import configured_files, replace_file
from mitmproxy_moesif.config.instance import OPTIONS, Instance
from mitmproxy_moesif.config.settings import Settings, SettingsError
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.config.watch import WATCH_SECONDS, FileWatch
from mitmproxy_moesif.governance.local_rules import parse_local_rules
from mitmproxy_moesif.governance.model import GovernanceError, RemoteConfig, RuleSet, parse_config, parse_rules
from mitmproxy_moesif.governance.rules import check_rules
from mitmproxy_moesif.governance.snapshot import Snapshot
from mitmproxy_moesif.log import RateLimitedLog, describe, log

if TYPE_CHECKING:
    import requests

    from mitmproxy_moesif.web.session import DeadlineSession

REFRESH = 60.0
MAX_ANSWER = 10_000_000
EMPTY = Snapshot()


class UnauthorizedError(GovernanceError):
    """Moesif does not accept the application id."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Moesif is unreachable or refuses the application id; first and last time of this, in monotonic seconds."""

    since: float
    at: float
    reason: str
    unauthorized: bool


class Trouble(NamedTuple):
    """Why a document could not be refreshed."""

    reason: str
    unauthorized: bool


@dataclass(slots=True)
class Document:
    """One of Moesif's documents: its last good content and tag, and whether a newer version is known to exist.

    Responses to batches have the current tag in the header `tag_header`. `told` is the last one received; `in_vain` is
    the one for which fetching failed. `validator` is for If-None-Match, and may differ in form. `trouble` is the error
    of the last attempt."""

    path: str
    tag_header: str
    content: bytes | None = None
    tag: str | None = None
    told: str | None = None
    in_vain: str | None = None
    validator: str | None = None
    stale: bool = True
    trouble: Trouble | None = None


@dataclass(slots=True)
class Account:
    """The state of one account. `snapshot` is replaced as a whole, never modified.

    `name`: an instance of this account. `former`: the account is no longer configured. `accepted`: Moesif accepts the
    application id; `told`: this was logged. `troubled`: the documents whose failed refresh was logged.
    """

    settings: Settings
    name: str = OPTIONS
    former: bool = False
    config: Document = field(default_factory=lambda: Document("/v1/config", "X-Moesif-Config-Etag"))
    rules: Document = field(default_factory=lambda: Document("/v1/rules", "X-Moesif-Rules-Tag"))
    parsed: tuple[RemoteConfig, RuleSet] = field(default_factory=lambda: (RemoteConfig(), RuleSet()))
    local: RuleSet = field(default_factory=RuleSet)
    configured: RuleSet | None = None
    local_file: FileWatch = field(default_factory=lambda: FileWatch(None, None))
    snapshot: Snapshot = EMPTY
    refreshed: float = float("-inf")
    troubled: frozenset[str] = frozenset()
    refusal: Refusal | None = None
    accepted: bool = False
    told: bool = False

    @property
    def asks(self) -> bool:
        """Whether to fetch this account's configuration from Moesif."""
        return bool(not self.former and self.settings.application_id.get_secret_value())


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The content of a rules file; `path` is None without a file."""

    path: str | None = None
    content: bytes = b""
    rules: RuleSet = field(default_factory=RuleSet)

    @classmethod
    def read(cls, path: str | None, previous: RulesFile | None = None) -> RulesFile:
        """Read a file; returns `previous` if nothing has changed. Raises `SettingsError` with file, line and reason."""
        try:
            if path is None:
                return cls()
            content = configured_files.read(path)
            if previous is None or (previous.path, previous.content) != (path, content):
                rules = parse_local_rules(content, path)
                check_rules(rules)  # all or nothing: an error in one must not leave another's quota unenforced
                previous = cls(path, content, rules)
            configured_files.in_force(path)
            return previous
        except OSError as error:
            raise SettingsError(f"rules_file: {path}: {error.strerror}") from error
        except GovernanceError as error:
            raise SettingsError(f"rules_file: {error}") from error


def why(error: OSError, settings: Settings) -> str:
    from mitmproxy_moesif.web.session import network_reason  # brings requests, as the session does

    return network_reason(error, settings.api_endpoint)


def tell_trouble(account: Account) -> None:
    """Log once for each document that cannot be refreshed, and once when all can be again."""
    troubles = {one.path: one.trouble for one in (account.config, account.rules) if one.trouble is not None}
    untold: dict[Trouble, list[str]] = {}
    for path, trouble in troubles.items():
        if path not in account.troubled:
            untold.setdefault(trouble, []).append(path)
    for trouble, paths in untold.items():
        what = f"cannot refresh {' and '.join(paths)} ({trouble.reason})"
        if trouble.unauthorized:
            entry = "moesif_application_id" if account.name == OPTIONS else f"application_id of {account.name!r}"
            why_not = f": the application id is not accepted, check {entry}"
            log.error("moesif: %s; keeping the last known version%s", what, why_not)
        else:
            log.warning("moesif: %s; keeping the last known version", what)
    if account.troubled and not troubles:
        log.info("moesif: configuration and rules from Moesif are up to date again")
    account.troubled = frozenset(troubles)


class Refresher:
    """Refreshes the snapshots of all accounts. `snapshot` may be called from any thread; it never locks or blocks.

    `configured` is called with an account and its configuration from Moesif, as JSON, when that changes. `announces`:
    log that an application id is accepted.
    """

    def __init__(
        self,
        folder: Path | None,
        configured: Callable[[str, bytes], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
        *,
        announces: bool = True,
    ) -> None:
        self._configured = configured
        self._announces = announces
        self._folder = folder
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._session: DeadlineSession | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._limited = RateLimitedLog(clock=clock)
        self._thread = threading.Thread(target=self._run, name="moesif-govern", daemon=True)

    def start(self) -> None:
        if not self._stopping:
            self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def configure(self, instance: Instance, local: RuleSet) -> None:
        """Use these settings and local rules for this instance's account from now on."""
        account = self._accounts.get(instance.account)
        if account is None:
            account = Account(instance.settings, instance.name)
            if self._load_cache(account, instance.account):
                self._configured(instance.account, account.config.content or b"{}")
            self._accounts[instance.account] = account
        account.settings, account.name = instance.settings, instance.name
        if local is not account.configured:  # else keep the rules read from the file since then
            account.local = account.configured = local
            # Read once more, since the file may have changed after it was read and before it was watched.
            account.local_file = FileWatch(instance.settings.rules_file, None)
        self._swap(account)
        self._wake.set()

    def keep(self, accounts: Set[str]) -> None:
        """Set all configured accounts. Snapshots of others are kept for exchanges in progress."""
        for name, account in self._accounts.items():
            account.former = name not in accounts
        self._wake.set()

    def snapshot(self, name: str) -> Snapshot:
        account = self._accounts.get(name)
        return account.snapshot if account is not None else EMPTY

    def refusal(self, name: str) -> Refusal | None:
        """The account's refusal; None if the last request got any other response."""
        account = self._accounts.get(name)
        return account.refusal if account is not None else None

    def accepts(self, name: str) -> bool:
        """Whether Moesif is known to accept this account's application id."""
        account = self._accounts.get(name)
        return account is not None and account.accepted

    def answered(self, name: str, headers: Mapping[str, str]) -> None:
        """Handle the headers of a response to a batch, which show if configuration or rules have changed."""
        account = self._accounts.get(name)
        if account is None:
            return
        for document in (account.config, account.rules):
            tag = headers.get(document.tag_header)
            if tag is None:
                continue
            document.told = tag
            if not account.accepted:  # Moesif sends no tags for unknown ids
                account.accepted = True
                self._wake.set()
            if tag not in (document.tag, document.in_vain):
                document.stale = True
                self._wake.set()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            accounts = {name: account for name, account in list(self._accounts.items()) if not account.former}
            for name, account in accounts.items():
                try:
                    self._refresh(name, account)
                    self._watch(account)
                except Exception as error:  # noqa: BLE001 - one error must not end the thread
                    self._limited.error("refresher", "moesif: unexpected error while refreshing: %s", describe(error))
            self._tell_accepted()
            watching = any(account.settings.rules_file for account in accounts.values())
            self._wake.wait(WATCH_SECONDS if watching else self._until_refresh())
        if self._session is not None:
            self._session.close()

    def _tell_accepted(self) -> None:
        accepted = [one for one in list(self._accounts.values()) if one.accepted and not one.told and not one.former]
        for account in accepted:
            account.told = True
        if accepted and self._announces:
            where = ", ".join(sorted({account.settings.api_endpoint for account in accepted}))
            what = "the application id is" if len(accepted) == 1 else f"{len(accepted)} application ids are"
            log.info("moesif: %s accepted (%s)", what, where)

    def _opened(self) -> DeadlineSession:
        """The session, made on first use: importing requests would delay the start."""
        if self._session is None:
            from mitmproxy_moesif.web.session import DeadlineSession

            self._session = DeadlineSession()
        return self._session

    def _until_refresh(self) -> float:
        now, accounts = self._clock(), [account for account in list(self._accounts.values()) if account.asks]
        due = [account.refreshed + (WATCH_SECONDS if is_stale(account) else REFRESH) - now for account in accounts]
        return max(0.1, min(due, default=REFRESH))

    def _refresh(self, name: str, account: Account) -> None:
        if not account.asks:
            return
        now = self._clock()
        regular = now - account.refreshed >= REFRESH
        if not regular and (not is_stale(account) or now - account.refreshed < WATCH_SECONDS):
            return
        account.refreshed = now
        session, changed = self._opened(), False
        for document in (account.config, account.rules):
            if document.stale or regular:
                changed |= self._fetch(session, account, document)
        tell_trouble(account)
        if changed:
            self._swap(account)
            self._configured(name, account.config.content or b"{}")
            self._save_cache(account, name)

    def _fetch(self, session: DeadlineSession, account: Account, document: Document) -> bool:
        """Fetch a document; returns whether it has changed. After a failure the old content remains."""
        settings = account.settings
        headers = {
            "X-Moesif-Application-Id": settings.application_id.get_secret_value(),
            "User-Agent": f"mitmproxy-moesif/{__version__}",
            "Accept-Encoding": "identity",
            **({"If-None-Match": document.validator} if document.validator else {}),
        }
        told = document.told  # a tag received during the fetch may belong to newer content
        timeout = (settings.connect_seconds, settings.send_seconds)
        try:
            with (
                session.deadline(sum(timeout)),
                session.get(
                    settings.api_endpoint + document.path,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                content = response.raw.read(MAX_ANSWER + 1)
            changed = self._take(account, document, response, content)
            document.tag = response.headers.get(document.tag_header) or told or response.headers.get("ETag")
            document.stale, document.in_vain = False, None
        except (OSError, GovernanceError) as error:  # exceptions of requests are OSErrors
            document.stale, document.in_vain = False, told  # the next regular refresh tries again
            reason = str(error) if isinstance(error, GovernanceError) else why(error, settings)
            document.trouble = Trouble(reason, isinstance(error, UnauthorizedError))
            self._note_refusal(account, error, reason)
            return False
        account.refusal, account.accepted, document.trouble = None, True, None
        return changed

    def _note_refusal(self, account: Account, error: Exception, reason: str) -> None:
        """Record a refusal. Other errors do not show whether events are accepted, so they clear it."""
        unauthorized, now = isinstance(error, UnauthorizedError), self._clock()
        if unauthorized or not isinstance(error, GovernanceError):
            since = account.refusal.since if account.refusal is not None else now
            account.refusal = Refusal(since, now, reason, unauthorized)
            if unauthorized:
                account.accepted = account.told = False
        else:
            account.refusal = None

    def _take(self, account: Account, document: Document, response: requests.Response, content: bytes) -> bool:
        if response.status_code == 304:
            return False
        if response.status_code != 200:
            from mitmproxy_moesif.web.session import UNAUTHORIZED  # loaded with the session

            kind = UnauthorizedError if response.status_code in UNAUTHORIZED else GovernanceError
            raise kind(f"status {response.status_code}")
        config, rules = account.parsed
        if document is account.config:
            config = parse_config(content)
        else:
            rules = parse_rules(content)
        account.parsed = (config, rules)
        document.content, document.validator = content, response.headers.get("ETag")
        return True

    def _swap(self, account: Account) -> None:
        config, rules = account.parsed
        old = account.snapshot
        others = (other.snapshot for other in list(self._accounts.values()))
        same = next((snapshot for snapshot in others if snapshot.rules.is_of(rules, account.local)), old)
        account.snapshot = Snapshot(config, rules, account.local, previous=same)
        for warning in account.snapshot.warnings:
            if warning not in old.warnings:
                log.warning("moesif: %s", warning)

    # --- local rules ---------------------------------------------------------------------------------------------

    def _watch(self, account: Account) -> None:
        path = account.settings.rules_file
        if not account.local_file.changed():
            return
        try:
            local = RulesFile.read(path).rules
        except SettingsError as error:
            log.error("moesif: %s; keeping the previous rules", error)
            return
        if local == account.local:
            return
        account.local = local
        self._swap(account)
        log.info("moesif: applied rules from %s: %s", path, number_of(len(account.local.rules), "rule"))

    # --- on disk -------------------------------------------------------------------------------------------------

    def _cache(self, name: str) -> Path | None:
        return self._folder / f"governance-{name}.json" if self._folder is not None else None

    def _load_cache(self, account: Account, name: str) -> bool:
        path = self._cache(name)
        if path is None:
            return False
        try:
            kept = orjson.loads(path.read_bytes())
            account.parsed = (parse_config(kept["config"].encode()), parse_rules(kept["rules"].encode()))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError, GovernanceError):
            log.warning("moesif: the configuration saved in %s cannot be read; fetching it from Moesif", path)
            return False
        account.config.content, account.rules.content = kept["config"].encode(), kept["rules"].encode()
        log.info("moesif: using rules and configuration from an earlier run until Moesif answers")
        return True

    def _save_cache(self, account: Account, name: str) -> None:
        path = self._cache(name)
        if path is None:
            return
        config = (account.config.content or b"{}").decode()
        rules = (account.rules.content or b"[]").decode()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, orjson.dumps({"config": config, "rules": rules}))
        except OSError as error:
            self._limited.error("cache", "moesif: %s cannot be written: %s", path, error.strerror)


def is_stale(account: Account) -> bool:
    return account.config.stale or account.rules.stale

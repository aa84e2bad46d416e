"""What runs while a proxy runs. It is separate from the addon that mitmproxy loads, so it survives script reloads.

Modules that not every start needs are imported where they are used: under mitmdump the port is already open while this
module is imported.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mitmproxy import flowfilter

from mitmproxy_moesif.capture.delay import LoopDelay
from mitmproxy_moesif.capture.enforcement import Enforcer
from mitmproxy_moesif.capture.in_flight import InFlight
from mitmproxy_moesif.capture.skip import parse_filter
from mitmproxy_moesif.capture.traffic import Traffic
from mitmproxy_moesif.capture.upstreams import Upstreams
from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.live import LiveOptions
from mitmproxy_moesif.config.settings import Settings, SettingsError, parse_settings
from mitmproxy_moesif.delivery.client import DeliveryClient
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.event.pipeline import identify
from mitmproxy_moesif.governance.refresh import Refresher, Refusal, RulesFile
from mitmproxy_moesif.log import RateLimitedLog, describe, log
from mitmproxy_moesif.recent.notes import Keep

if TYPE_CHECKING:
    from mitmproxy_moesif.admin.server import AdminServer
    from mitmproxy_moesif.admin.service import Operations
    from mitmproxy_moesif.kong.entities import KongConfig, Plugin
    from mitmproxy_moesif.kong.overlay import LiveOverlay
    from mitmproxy_moesif.kong.resolver import Resolver
    from mitmproxy_moesif.kong.source import KongSource


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings, with everything that is read and compiled from them."""

    given: Mapping[str, Any]
    instance: Instance
    local_rules: RulesFile
    skip: flowfilter.TFilter | None
    kong: KongConfig | None = None
    resolver: Resolver | None = None
    unplaced: Instance = field(init=False)
    """Used for requests without an instance: the options, masking everything that any instance masks."""

    def __post_init__(self) -> None:
        unplaced = replace(self.instance, masks_all=self.awaits_kong).with_masks_of(self.instances)
        object.__setattr__(self, "unplaced", unplaced)

    @classmethod
    def of(cls, given: Mapping[str, Any], previous: Prepared | None = None, confdir: Path | None = None) -> Prepared:
        """Raises `SettingsError` with one line for an unusable file or an invalid filter.

        Whatever has not changed since `previous` is reused, so that a live change does not block the event loop: rules,
        hooks and the router are recompiled only if their sources changed. Kong's configuration is not read again,
        because `KongSource` watches it. `confdir` contains the spool unless the settings say otherwise.
        """
        settings = parse_settings(given)
        folder = spool_folder(settings, confdir)
        if previous is None:
            kong = read_kong(settings, given, folder)
            resolver = resolver_for(kong, given)
            instance, rules = Instance.compile(settings), RulesFile.read(settings.rules_file)
        else:
            kong = previous.kong
            resolver = resolver_for(kong, given, previous.resolver)
            instance = Instance.compile(settings, previous=previous.instance)
            rules = RulesFile.read(settings.rules_file, previous.local_rules)
        return cls(given, instance, rules, parse_filter(settings.skip), kong, resolver)

    def with_kong(self, kong: KongConfig, previous: Resolver | None = None) -> Prepared:
        """A copy with another Kong configuration; `previous` was already made for it. Raises `SettingsError`."""
        return replace(self, kong=kong, resolver=resolver_for(kong, self.given, previous or self.resolver))

    @property
    def awaits_kong(self) -> bool:
        """Whether Kong's configuration is still unknown, so that it is unclear what to capture and what to mask."""
        return self.kong is None and names_kong(self.instance.settings)

    @property
    def instances(self) -> list[Instance]:
        """All instances that a request can match: those from Kong's configuration and the Admin API, or the options.

        The options come last, so that they win for an account that they share with other instances.
        """
        if self.awaits_kong:
            return []
        if self.resolver is None:
            return [self.instance]
        options = [] if self.resolver.has_instances else [self.instance]
        alone = [self.resolver.alone] if self.resolver.alone is not None else []
        return [*alone, *self.resolver.instances.values(), *options]

    @property
    def akto(self) -> set[AktoTarget]:
        """All Akto targets that records may be sent to."""
        targets = [instance.akto for instance in self.instances]
        if self.resolver is not None:
            targets += map(AktoTarget.of, self.resolver.akto.values())
        return {target for target in targets if target is not None}


def names_kong(settings: Settings) -> bool:
    return settings.kong_config is not None or settings.kong_admin_url is not None


def read_kong(settings: Settings, given: Mapping[str, Any], folder: Path | None) -> KongConfig | None:
    """Read Kong's configuration at startup. None if there is none or it is not known yet."""
    if not names_kong(settings):
        return None
    from mitmproxy_moesif.kong.resolver import parse_instance
    from mitmproxy_moesif.kong.source import LastListings, first_kong_config

    last = LastListings(folder, settings.kong_admin_url)
    return first_kong_config(settings, last, partial(parse_instance, given=given))


def spool_folder(settings: Settings, confdir: Path | None) -> Path | None:
    """The spool's folder; None for in memory only. Raises `SettingsError` if the user has no home folder."""
    if settings.spool_dir is not None:
        return None if settings.spool_dir == "off" else Path(settings.spool_dir)
    if confdir is not None and confdir.parts[:1] == ("~",):
        raise SettingsError("spool_dir is missing: this user has no home folder to keep events in")
    return confdir / "moesif-spool" if confdir is not None else None


def resolver_for(
    kong: KongConfig | None, given: Mapping[str, Any], previous: Resolver | None = None
) -> Resolver | None:
    if kong is None:
        return None
    from mitmproxy_moesif.kong.resolver import Resolver

    return Resolver(kong, given, previous)


class Listening(Protocol):
    """A listener that serves the Admin API between `start` and `stop`."""

    def start(self) -> None:
        """Raises `OSError` and `ValueError` with one line."""

    def stop(self) -> None: ...


type Listen = Callable[[Settings, Operations], Listening]
"""Restores saved Admin API changes and returns a listener, not yet started. Raises one-line `OSError`, `ValueError`."""


def listen(settings: Settings, operations: Operations) -> AdminServer:
    """An Admin API listener with its own state file, both in this process."""
    from mitmproxy_moesif.admin.server import admin_server
    from mitmproxy_moesif.admin.state import StateFile

    assert settings.admin_listen is not None
    operations.restore(StateFile(settings.admin_state))
    return admin_server(settings.admin_listen, settings.admin_token.get_secret_value() or None, operations)


class Runtime:
    """Exchanges in flight, counters, delivery and rules. Created once per proxy.

    `prepared` is the configuration in force. `take` puts another one in force, on the event loop; it belongs to the
    addon, and after a reload of the script to the addon's successor.
    """

    def __init__(
        self,
        folder: Path | None,
        max_bytes: int,
        *,
        threads: bool,
        keep: Keep,
        announces: bool,
    ) -> None:
        self._folder = folder
        self._limited = RateLimitedLog()
        self.in_flight = InFlight()
        self.traffic = Traffic()
        self.delay = LoopDelay(self.traffic.waited)
        self.upstreams = Upstreams()
        self.refresher = Refresher(
            folder, lambda account, config: self.delivery.sample(account, config), announces=announces
        )
        self.enforcer = Enforcer(partial(identify, fault=self.fault), self.fault)
        self.delivery = DeliveryClient(folder, max_bytes, self.refresher.answered, apart=not threads, keep=keep)
        self.prepared: Prepared | None = None
        self.take: Callable[[Prepared], None] = self.configure
        self._started = False
        self._admin: Listening | None = None
        self._operations: Operations | None = None
        self._settle: Callable[[], None] = lambda: None
        self._kong: KongSource | None = None

    def start(self) -> None:
        """A second call does nothing."""
        if not self._started:
            self._started = True
            self.delivery.start()
            self.refresher.start()

    def prepare_admin(self, settings: Settings, change: LiveOptions, listen: Listen) -> None:
        """Create the Admin API and its listener if one is configured. Raises `SettingsError` with one line."""
        if settings.admin_listen is None:
            return
        from mitmproxy_moesif.admin.service import Operations

        operations = Operations(
            self.delivery,
            lambda: self._now().instance.settings,
            change,
            lambda: self._now().resolver,
            lambda: self._now().given,
            self.traffic.reading,
            self._refusals,
            lambda: {one.destination for one in self._now().instances if self.refresher.accepts(one.account)},
            lambda: {target.name for target in self._now().akto},
        )
        try:
            self._admin = listen(settings, operations)
        except (OSError, ValueError) as error:
            raise SettingsError(str(error)) from error
        self._operations, self._settle = operations, change.settle

    def open_admin(self) -> None:
        """Start the admin listener if there is one, now that everything is ready. Raises one-line `SettingsError`."""
        try:
            if self._admin is not None:
                self._admin.start()
        except (OSError, ValueError) as error:
            raise SettingsError(str(error)) from error

    def _now(self) -> Prepared:
        assert self.prepared is not None
        return self.prepared

    def _refusals(self) -> dict[str, Refusal]:
        """Refusals by destination, for destinations that receive events and also serve configuration and rules."""
        accounts = {one.destination: one.account for one in self._now().instances if not one.settings.kafka_brokers}
        found = {name: self.refresher.refusal(account) for name, account in accounts.items()}
        return {name: refusal for name, refusal in found.items() if refusal is not None}

    def configure(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.delivery.bound_spool(prepared.instance.settings.spool_max_bytes)
        self.delivery.configure(prepared.instances)
        self.traffic.expect(instance.name for instance in prepared.instances)
        for instance in prepared.instances:
            self.refresher.configure(instance, prepared.local_rules.rules)
        self.refresher.keep({instance.account for instance in prepared.instances})

    def watch_kong(self, settings: Settings, loop: AbstractEventLoop, current: KongConfig | None) -> None:
        """Follow changes of Kong's configuration, and changes to it through the Admin API."""
        if self._operations is None and not names_kong(settings):
            return
        from mitmproxy_moesif.kong.entities import KongConfig
        from mitmproxy_moesif.kong.overlay import LiveOverlay
        from mitmproxy_moesif.kong.resolver import parse_instance

        def changed(kong: KongConfig) -> None:
            """Called on the source's thread. Raises `SettingsError` for an invalid instance: the old ones stay."""
            loop.call_soon_threadsafe(self._kong_changed, self._now().with_kong(kong))

        def check(plugin: Plugin) -> None:
            parse_instance(plugin, self._now().given)

        live = LiveOverlay(changed, self._settle, current or KongConfig())
        following = current is not None or not names_kong(settings)
        if following:
            self._follow(live)
        if not names_kong(settings):
            return
        from mitmproxy_moesif.kong.source import KongSource, LastListings

        def replaced(kong: KongConfig) -> None:
            """Saved changes refer to Kong's entries, so they are restored once the first entries are known."""
            nonlocal following
            live.replaced(kong)
            if not following:
                following = True
                self._follow(live)

        last = LastListings(self._folder, settings.kong_admin_url)
        self._kong = KongSource(settings, replaced, current, check, last)
        self._kong.start()

    def _follow(self, live: LiveOverlay) -> None:
        if self._operations is None:
            return
        from mitmproxy_moesif.admin.state import StateError

        try:
            self._operations.follow(live)
        except StateError as error:
            log.error("moesif: %s", error)

    def _kong_changed(self, prepared: Prepared) -> None:
        now = self._now()
        if prepared.given is not now.given and prepared.kong is not None:
            prepared = now.with_kong(prepared.kong, prepared.resolver)  # the options have changed meanwhile
        self.take(prepared)

    def drain(self, seconds: float) -> None:
        """Deliver waiting events for up to `seconds`, unless delivery has not started."""
        self.refresher.stop()
        if self._started:
            self.delivery.drain(seconds)

    def close(self) -> Reading:
        self.delay.stop()
        self.refresher.stop()
        if self._admin is not None:
            self._admin.stop()
        if self._kong is not None:
            self._kong.stop()
        return self.delivery.close()

    def fault(self, kind: str, error: Exception) -> None:
        """Count a fault in our code or in a user hook, and log it once per kind and minute."""
        self.delivery.fault(kind)
        self._limited.error(kind, "moesif: a fault in %s, the traffic is not affected: %s", kind, describe(error))

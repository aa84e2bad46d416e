"""What runs while a proxy runs, apart from the addon that mitmproxy loads: it outlives a reload of the script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, flowfilter

from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.admin.state import StateError
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.enforcement import Enforcer
from mitmproxy_moesif.exchange import Register
from mitmproxy_moesif.governance.model import RuleSet
from mitmproxy_moesif.governor import Governor, read_local_rules
from mitmproxy_moesif.instance import Instance
from mitmproxy_moesif.kong.entities import KongConfig
from mitmproxy_moesif.kong_source import Changed, KongSource, read_kong_config
from mitmproxy_moesif.log import Limited, describe, log
from mitmproxy_moesif.making import Maker
from mitmproxy_moesif.operations import LiveOptions, Operations
from mitmproxy_moesif.scoping import Scoping
from mitmproxy_moesif.settings import Settings, SettingsError, parse_settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings with everything that is read and parsed because of them."""

    given: Mapping[str, Any]
    instance: Instance
    local_rules: RuleSet
    skip: flowfilter.TFilter | None
    kong: KongConfig | None = None
    scoping: Scoping | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], previous: Prepared | None = None) -> Prepared:
        """Raises `SettingsError` with one line for a file that cannot be taken or a filter that is none.

        `previous` saves reading Kong's configuration again, which its source watches.
        """
        instance = Instance.compile(parse_settings(given))
        settings = instance.settings
        kong = previous.kong if previous is not None else read_kong_config(settings)
        scoping = Scoping(kong, given) if kong is not None else None
        rules, skip = read_local_rules(settings.rules_file), parse_filter(settings.skip)
        return cls(given, instance, rules, skip, kong, scoping)

    def with_kong(self, kong: KongConfig) -> Prepared:
        """The same with another Kong configuration. Raises `SettingsError`."""
        return replace(self, kong=kong, scoping=Scoping(kong, self.given))

    @property
    def instances(self) -> list[Instance]:
        """All that requests may be for: those of Kong's configuration, or the options as one."""
        if self.scoping is not None and self.scoping.has_instances:
            return list(self.scoping.instances.values())
        return [self.instance]


def parse_filter(expression: str | None) -> flowfilter.TFilter | None:
    if expression is None:
        return None
    try:
        return flowfilter.parse(expression)
    except (ValueError, exceptions.OptionsError) as error:
        raise SettingsError(f"skip: {expression!r} is no filter expression of mitmproxy") from error


class Runtime:
    """Register, delivery, rules: made once for a proxy."""

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._limited = Limited()
        self.register = Register()
        self.governor = Governor(folder)
        maker = Maker(self.governor.weigh, self.fault)
        self.enforcer = Enforcer(maker.identify, self.fault)
        self.pipeline = Pipeline(folder, max_bytes, maker, self.governor.answered)
        self._admin: AdminServer | None = None
        self._kong: KongSource | None = None

    def start(self) -> None:
        self.pipeline.start()
        self.governor.start()

    def open_admin(self, prepared: Callable[[], Prepared], change: LiveOptions) -> None:
        """Start the admin listener where one is configured. Raises `SettingsError` with one line."""
        settings = prepared().instance.settings
        if settings.admin_listen is None:
            return
        operations = Operations(self.pipeline, lambda: prepared().instance.settings, change, lambda: prepared().scoping)
        token = settings.admin_token.get_secret_value()
        try:
            operations.local.restore()
            self._admin = AdminServer(settings.admin_listen, token or None, operations)
            self._admin.start()
        except (OSError, ValueError, StateError) as error:
            self._admin = None
            raise SettingsError(str(error)) from error
        log.info("moesif: status, metrics and Admin API at %s", self._admin.url)

    def configure(self, prepared: Prepared) -> None:
        for instance in prepared.instances:
            self.pipeline.configure(instance)
            self.governor.configure(instance, prepared.local_rules)

    def watch_kong(self, settings: Settings, changed: Changed, current: KongConfig | None) -> None:
        if settings.kong_config is not None or settings.kong_admin_url is not None:
            self._kong = KongSource(settings, changed, current)
            self._kong.start()

    def drain(self, seconds: float) -> None:
        self.governor.stop()
        self.pipeline.drain(seconds)

    def close(self) -> Reading:
        self.governor.stop()
        if self._admin is not None:
            self._admin.stop()
        if self._kong is not None:
            self._kong.stop()
        return self.pipeline.close()

    def fault(self, kind: str, error: Exception) -> None:
        """Something of ours, or of the embedder's hooks, went wrong: counted, and logged once a kind and minute."""
        self.pipeline.ledger.fault(kind)
        self._limited.error(kind, "moesif: a fault in %s, the traffic is not affected: %s", kind, describe(error))

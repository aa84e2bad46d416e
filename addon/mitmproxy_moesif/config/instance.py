"""One configured instance of the addon: its settings, and what is parsed from them once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mitmproxy_moesif.config.policy import EventPolicy, compile_policy
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.config.user_hooks import UserHooks


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """`destination` names the account that events go to without telling its id: it may stand in files and logs."""

    settings: Settings
    policy: EventPolicy
    destination: str
    hooks: UserHooks | None = None

    @property
    def masks(self) -> bool:
        """Whether its events leave anything out."""
        return self.settings.masks or (self.hooks is not None and "mask" in self.hooks)

    @classmethod
    def compile(
        cls, settings: Settings, hooks_source: bytes | None = None, previous: Instance | None = None
    ) -> Instance:
        """`hooks_source`: what the file of hooks held, where it was read already.

        `previous` is returned where nothing has changed, and keeps its hooks where their file has not. Raises
        `SettingsError` where the hooks cannot be loaded.
        """
        hooks = None
        if settings.hooks is not None:
            hooks = UserHooks.load(settings.hooks, hooks_source, previous.hooks if previous is not None else None)
        if previous is not None and previous.hooks is hooks and previous.settings == settings:
            return previous
        return cls(settings, compile_policy(settings), destination_of(settings), hooks)


def destination_of(settings: Settings) -> str:
    """16 hex digits of a hash over the application id; `file` where events only go to a file.

    The endpoint is no part of it: what waits on disk follows the account to another endpoint.
    """
    application_id = settings.application_id.get_secret_value()
    return hashlib.sha256(application_id.encode()).hexdigest()[:16] if application_id else "file"

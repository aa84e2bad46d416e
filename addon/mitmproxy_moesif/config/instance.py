"""One configured instance of the addon: its settings, and what is compiled from them once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

from mitmproxy_moesif.config.akto import MAX_BODY_BYTES, PARAMETERS, AktoTarget
from mitmproxy_moesif.config.destination import account_of, destination_of
from mitmproxy_moesif.config.policy import EventPolicy, compile_policy, with_bodies_of
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.config.user_hooks import UserHooks

OPTIONS = "options"
"""The name of the instance that is configured by the options."""


@dataclass(frozen=True, eq=False)
class Instance:
    """`account` and `destination` name the owner of the events and their queue, without revealing a secret.

    `name` is for people: the name of an entry of Kong's configuration, or `options`.
    """

    settings: Settings
    policy: EventPolicy
    account: str
    destination: str
    hooks: UserHooks | None = None
    name: str = OPTIONS
    akto: AktoTarget | None = None
    masks_all: bool = False
    """The masks are not known yet, so everything is hidden."""

    @cached_property
    def akto_policy(self) -> EventPolicy:
        """The policy for Akto's records, which may contain larger bodies than events."""
        return with_bodies_of(self.policy, MAX_BODY_BYTES)

    @property
    def captured(self) -> EventPolicy:
        """The policy that decides what is captured."""
        return self.policy if self.akto is None else self.akto_policy

    @property
    def masks(self) -> bool:
        """Whether anything is masked in its events."""
        return self.settings.masks or self.hides

    @property
    def hides(self) -> bool:
        """Whether exchanges must not be shown outside of events: a user hook masks these, or the masks are unknown."""
        return self.masks_all or (self.hooks is not None and "mask" in self.hooks)

    @classmethod
    def compile(
        cls,
        settings: Settings,
        hooks_source: bytes | None = None,
        previous: Instance | None = None,
        name: str = OPTIONS,
    ) -> Instance:
        """Make an instance. `hooks_source`: the content of the hooks file, if it was already read.

        Returns `previous` if nothing has changed, and reuses its hooks if their file has not. Raises `SettingsError` if
        the hooks cannot be loaded.
        """
        hooks = None
        if settings.hooks is not None:
            hooks = UserHooks.load(settings.hooks, hooks_source, previous.hooks if previous is not None else None)
        if previous is not None and (previous.hooks, previous.name) == (hooks, name) and previous.settings == settings:
            return previous
        account, destination, akto = account_of(settings), destination_of(settings), AktoTarget.of(settings)
        return cls(settings, compile_policy(settings), account, destination, hooks, name, akto)

    def with_masks_of(self, others: Collection[Instance]) -> Instance:
        """A copy that also applies the masks of `others`, except for bodies, and hides what they hide."""
        policy = self.policy.with_masks_of([other.policy for other in others])
        return replace(self, policy=policy, masks_all=self.masks_all or any(other.hides for other in others))

    def with_akto(self, said: Settings) -> Instance:
        """A copy with the Akto parameters of these settings."""
        settings = self.settings.model_copy(update={name: getattr(said, name) for name in PARAMETERS})
        return replace(self, settings=settings, akto=AktoTarget.of(settings))

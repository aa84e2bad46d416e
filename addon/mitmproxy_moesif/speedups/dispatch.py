"""A prepared dispatch of mitmproxy's hooks: the same calls in the same order, found once and not for every event.

mitmproxy asks each of its 36 addons for each hook of each exchange, every time inside a context manager: half of its
time. Here the addons that have a hook are looked up when the hook first fires. What was found is forgotten whenever
addons come, go or change places: at `register`, `remove`, `clear`, after `configure` (which reorders scripts), and
where the chain itself was changed by hand.

As in mitmproxy: addons are called in the chain's order, the nested ones after their parent; coroutines are awaited in
order; an exception is logged and ends the calls inside that link of the chain, not those of the links that follow;
`AddonHalt` ends all of them; `OptionsError` goes to the caller. The hook itself is looked up at each call, so an addon
may replace it.

Not followed: a hook that an addon without it grows later (until the next change of addons or options), and addons
that come or go while an event is under way (mitmproxy may still call them for this event, or not).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from mitmproxy import addonmanager, exceptions, hooks
from mitmproxy.addonmanager import AddonManager
from mitmproxy.master import Master

from mitmproxy_moesif.speedups.replacing import exchange_class

LIFECYCLE = frozenset({"load", "configure", "running", "done"})
"""Rare, and addons come and go inside of them: left to mitmproxy."""

OF_A_FLOW = ("flow",)
"""The argument of mitmproxy's hooks that are followed by `update`."""

_PLANS = "moesif_plans"


class Call(NamedTuple):
    """`takes_list`: of the values, as `update` does; `after_fault` is the index to go on at if it raises."""

    addon: Any
    name: str
    takes_list: bool
    after_fault: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is called for one hook: the first `own` calls are the hook's own, the others those of `update`.

    `chain` and `length` tell whether the chain is still the one that this was made from.
    """

    arguments: tuple[str, ...]
    calls: tuple[Call, ...]
    own: int
    chain: list[Any]
    length: int


class PreparedAddonManager(AddonManager):
    """What a running addon manager's class is changed to, by `install`; `uninstall` changes it back."""

    def run(self, event: hooks.Hook) -> Awaitable[None] | None:
        """Call the hook, and `update` for its flow where somebody listens; at once as far as none is a coroutine.

        The rest, if any, is what is returned: it is to be awaited.
        """
        hook = type(event)
        return run(self, hook, values(plan_for(self, hook), event))

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        if (rest := self.run(event)) is not None:
            await rest

    async def trigger_event(self, event: hooks.Hook) -> None:
        if event.name in LIFECYCLE:
            await super().trigger_event(event)
            return
        plan = plan_for(self, type(event))
        plan = replace(plan, calls=plan.calls[: plan.own])
        arguments = values(plan, event)
        await wait(plan, arguments, *call(plan, arguments, 0))

    def trigger(self, event: hooks.Hook) -> None:
        try:
            super().trigger(event)
        finally:
            if event.name == "configure":
                forget(self)

    def register(self, addon: Any) -> Any:
        try:
            return AddonManager.register(self, addon)
        finally:
            forget(self)
            # The parent puts the addon in its place only after this has returned.
            self.master.event_loop.call_soon(forget, self)

    def remove(self, addon: Any) -> None:
        try:
            AddonManager.remove(self, addon)
        finally:
            forget(self)

    def clear(self) -> None:
        try:
            AddonManager.clear(self)
        finally:
            forget(self)


# Functions and no methods: events under way go on when the manager's class is changed back.


def values(plan: Plan, event: hooks.Hook) -> list[Any]:
    return [getattr(event, argument) for argument in plan.arguments]


def run(manager: AddonManager, hook: type[hooks.Hook], arguments: list[Any]) -> Awaitable[None] | None:
    """As `PreparedAddonManager.run`, without an event."""
    plan = plan_for(manager, hook)
    waiting, following = call(plan, arguments, 0)
    return None if waiting is None else wait(plan, arguments, waiting, following)


def call(plan: Plan, arguments: list[Any], start: int) -> tuple[Awaitable[Any] | None, int]:
    """Call from index `start` on, up to an awaitable: that, and where to go on then; None at the end."""
    calls = plan.calls
    end = len(calls)
    while start < end:
        addon, name, takes_list, after_fault = calls[start]
        start += 1
        try:
            hook = getattr(addon, name, None)
            if callable(hook):
                result = hook(arguments) if takes_list else hook(*arguments)
                if result is not None and inspect.isawaitable(result):
                    return result, start
            elif hook and not isinstance(hook, types.ModuleType):
                raise exceptions.AddonManagerError(f"Addon handler {name} ({addon}) not callable")
        except exceptions.AddonHalt:
            start = after_halt(plan, start)
        except exceptions.OptionsError:
            raise
        except Exception as error:  # noqa: BLE001 - as mitmproxy does: an addon's fault is logged
            log_fault(error)
            start = after_fault
    return None, end


async def wait(plan: Plan, arguments: list[Any], waiting: Awaitable[Any] | None, following: int) -> None:
    """Await, and call the rest."""
    while waiting is not None:
        try:
            await waiting
        except exceptions.AddonHalt:
            following = after_halt(plan, following)
        except exceptions.OptionsError:
            raise
        except Exception as error:  # noqa: BLE001 - as mitmproxy does: an addon's fault is logged
            log_fault(error)
            following = plan.calls[following - 1].after_fault
        waiting, following = call(plan, arguments, following)


def after_halt(plan: Plan, start: int) -> int:
    """Where to go on when an addon has ended the calls of its hook: with those of `update`, if there are any."""
    return plan.own if start <= plan.own else len(plan.calls)


def log_fault(error: Exception) -> None:
    """In mitmproxy's words, and like there without the frame that called the addon."""
    trace = error.__traceback__
    cut = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    addonmanager.logger.error(f"Addon error: {error}", exc_info=(type(error), error, cut))


def plan_for(manager: AddonManager, hook: type[hooks.Hook]) -> Plan:
    """Who is to be called for this kind of event."""
    plans: dict[str, Plan] = manager.__dict__.get(_PLANS, {})
    plan = plans.get(hook.name)
    if plan is None or plan.chain is not manager.chain or plan.length != len(manager.chain):
        plan = plans[hook.name] = make_plan(manager.chain, hook)
    return plan


def make_plan(chain: list[Any], hook: type[hooks.Hook]) -> Plan:
    """Look the hook up on every addon of the chain and on those nested in it; and `update`, where it is of a flow."""
    arguments = tuple(field.name for field in fields(hook))  # type: ignore[arg-type]  # every hook is a dataclass
    calls = calls_of(chain, hook.name)
    updates = calls_of(chain, hooks.UpdateHook.name, behind=len(calls)) if arguments == OF_A_FLOW else []
    return Plan(arguments, (*calls, *updates), len(calls), chain, len(chain))


def calls_of(chain: list[Any], name: str, behind: int | None = None) -> list[Call]:
    """`behind` so many other calls, of `update` with a list of flows."""
    calls: list[Call] = []
    for link in chain:
        having = [addon for addon in addonmanager.traverse([link]) if has(addon, name)]
        end = (behind or 0) + len(calls) + len(having)
        calls += [Call(addon, name, behind is not None, end) for addon in having]
    return calls


def has(addon: Any, name: str) -> bool:
    try:
        return bool(getattr(addon, name, None))
    except Exception:  # noqa: BLE001 - raised again, and logged, when it is called
        return True


def forget(manager: AddonManager) -> None:
    """Look everything up again at the next event."""
    manager.__dict__.get(_PLANS, {}).clear()


def listens(manager: AddonManager, hook: type[hooks.Hook]) -> bool:
    """Whether any addon has this hook."""
    return plan_for(manager, hook).own > 0


def install(master: Master) -> str | None:
    """Prepare the dispatch of a running master; what keeps it from that, or None. May be called again."""
    manager = master.addons
    if isinstance(manager, PreparedAddonManager):
        return None
    if type(manager) is not AddonManager:
        return "the addon manager is not mitmproxy's own"
    manager.__dict__[_PLANS] = {}
    exchange_class(manager, AddonManager, PreparedAddonManager)
    return None


def uninstall(master: Master) -> None:
    """Back to mitmproxy's own dispatch. Events under way go on."""
    exchange_class(master.addons, PreparedAddonManager, AddonManager)
    master.addons.__dict__.pop(_PLANS, None)

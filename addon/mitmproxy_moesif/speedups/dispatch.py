"""A prepared dispatch of mitmproxy's hooks: the same calls in the same order, looked up once instead of per event.

mitmproxy asks each of its 36 addons for each hook of each exchange, every time inside a context manager: this is half
of its CPU time. Here the addons that have a hook are looked up when the hook first fires. This cache is cleared
whenever addons are added, removed or reordered: at `register`, `remove`, `clear`, after `configure` (which reorders
scripts), and when the chain was changed directly.

As in mitmproxy: addons are called in the chain's order, nested ones after their parent; coroutines are awaited in
order; an exception is logged and ends the calls inside that link of the chain, but not those of later links;
`AddonHalt` ends all calls; `OptionsError` is raised to the caller. The hook method itself is looked up at each call, so
an addon may replace it.

Two differences: a hook that an addon gets later is only found at the next change of addons or options; and for addons
added or removed during an event it is undefined whether they are called for it.
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
"""Rare hooks in which addons are added and removed. They are left to mitmproxy."""

OF_A_FLOW = ("flow",)
"""The arguments of hooks after which mitmproxy calls `update`."""

_PLANS = "moesif_plans"


class Call(NamedTuple):
    """One call of an addon. `takes_list`: pass the values as a list, as `update` needs.

    `after_fault` is the index of the call to continue with if this one raises.
    """

    addon: Any
    name: str
    takes_list: bool
    after_fault: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls for one hook: the first `own` calls are for the hook itself, the others for `update`.

    `chain` and `length` are used to check whether the chain has changed since.
    """

    arguments: tuple[str, ...]
    calls: tuple[Call, ...]
    own: int
    chain: list[Any]
    length: int


class PreparedAddonManager(AddonManager):
    """The class that `install` gives to a running addon manager; `uninstall` changes it back."""

    def run(self, event: hooks.Hook) -> Awaitable[None] | None:
        """Call the hook, then `update` for its flow if an addon has it. Runs synchronously up to the first coroutine.

        Returns the rest, which must be awaited, or None.
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
            # The parent inserts the addon into the chain only after this has returned.
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


# Functions and not methods: events in progress must continue after the manager's class is changed back.


def values(plan: Plan, event: hooks.Hook) -> list[Any]:
    return [getattr(event, argument) for argument in plan.arguments]


def run(manager: AddonManager, hook: type[hooks.Hook], arguments: list[Any]) -> Awaitable[None] | None:
    """Like `PreparedAddonManager.run`, without an event object."""
    plan = plan_for(manager, hook)
    waiting, following = call(plan, arguments, 0)
    return None if waiting is None else wait(plan, arguments, waiting, following)


def call(plan: Plan, arguments: list[Any], start: int) -> tuple[Awaitable[Any] | None, int]:
    """Make the calls from index `start` up to one that returns an awaitable.

    Returns the awaitable (None at the end) and the index of the next call.
    """
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
        except Exception as error:  # noqa: BLE001 - an addon's error is logged, as in mitmproxy
            log_fault(error)
            start = after_fault
    return None, end


async def wait(plan: Plan, arguments: list[Any], waiting: Awaitable[Any] | None, following: int) -> None:
    """Await `waiting`, then make the remaining calls."""
    while waiting is not None:
        try:
            await waiting
        except exceptions.AddonHalt:
            following = after_halt(plan, following)
        except exceptions.OptionsError:
            raise
        except Exception as error:  # noqa: BLE001 - an addon's error is logged, as in mitmproxy
            log_fault(error)
            following = plan.calls[following - 1].after_fault
        waiting, following = call(plan, arguments, following)


def after_halt(plan: Plan, start: int) -> int:
    """The index to continue at after an `AddonHalt`: the first call of `update`, if there is one left."""
    return plan.own if start <= plan.own else len(plan.calls)


def log_fault(error: Exception) -> None:
    """Log an error with mitmproxy's message, and as there without the frame that called the addon."""
    trace = error.__traceback__
    cut = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    addonmanager.logger.error(f"Addon error: {error}", exc_info=(type(error), error, cut))


def plan_for(manager: AddonManager, hook: type[hooks.Hook]) -> Plan:
    """The plan for this hook, created if there is none or the chain has changed."""
    plans: dict[str, Plan] = manager.__dict__.get(_PLANS, {})
    plan = plans.get(hook.name)
    if plan is None or plan.chain is not manager.chain or plan.length != len(manager.chain):
        plan = plans[hook.name] = make_plan(manager.chain, hook)
    return plan


def make_plan(chain: list[Any], hook: type[hooks.Hook]) -> Plan:
    """Look up the hook on all addons of the chain, nested ones included, and `update` if the hook is about a flow."""
    arguments = tuple(field.name for field in fields(hook))  # type: ignore[arg-type]  # every hook is a dataclass
    calls = calls_of(chain, hook.name)
    updates = calls_of(chain, hooks.UpdateHook.name, behind=len(calls)) if arguments == OF_A_FLOW else []
    return Plan(arguments, (*calls, *updates), len(calls), chain, len(chain))


def calls_of(chain: list[Any], name: str, behind: int | None = None) -> list[Call]:
    """The calls of one hook. With `behind`, they are calls of `update` that follow that many other calls."""
    calls: list[Call] = []
    for link in chain:
        having = [addon for addon in addonmanager.traverse([link]) if has(addon, name)]
        end = (behind or 0) + len(calls) + len(having)
        calls += [Call(addon, name, behind is not None, end) for addon in having]
    return calls


def has(addon: Any, name: str) -> bool:
    try:
        return bool(getattr(addon, name, None))
    except Exception:  # noqa: BLE001 - raised and logged when it is called
        return True


def forget(manager: AddonManager) -> None:
    """Clear the cache, so that hooks are looked up again at the next event."""
    manager.__dict__.get(_PLANS, {}).clear()


def listens(manager: AddonManager, hook: type[hooks.Hook]) -> bool:
    """Whether any addon has this hook."""
    return plan_for(manager, hook).own > 0


def install(master: Master) -> str | None:
    """Install the dispatch on a running master. Returns why that is not possible, or None. May be called again."""
    manager = master.addons
    if isinstance(manager, PreparedAddonManager):
        return None
    if type(manager) is not AddonManager:
        return "the addon manager is not mitmproxy's own"
    manager.__dict__[_PLANS] = {}
    exchange_class(manager, AddonManager, PreparedAddonManager)
    return None


def uninstall(master: Master) -> None:
    """Restore mitmproxy's own dispatch. Events in progress continue."""
    exchange_class(master.addons, PreparedAddonManager, AddonManager)
    master.addons.__dict__.pop(_PLANS, None)

"""The prepared dispatch makes the same calls as mitmproxy's own, in the same order, whatever the addons do."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import addonmanager, exceptions, flow, hooks, http, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.master import Master
from mitmproxy.proxy.layers.http import HttpRequestHook, HttpResponseHook  # type: ignore[attr-defined]
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import tflow

from mitmproxy_moesif.speedups import dispatch

HOOKS = ("request", "response", "update", "client_connected")
BEHAVIOURS = ("absent", "call", "wait", "await", "raise", "raise_late", "halt", "halt_late", "future", "module", "text")

type Calls = list[tuple[str, str, int]]


class Recorder:
    """An addon that notes each of its calls and then behaves as it was told."""

    def __init__(self, name: str, behaviours: dict[str, str], calls: Calls) -> None:
        self.name = name
        self._calls = calls
        for hook, behaviour in behaviours.items():
            self.behave(hook, behaviour)

    def __repr__(self) -> str:
        return self.name

    def behave(self, hook: str, behaviour: str) -> None:
        if behaviour == "module":
            setattr(self, hook, types)
        elif behaviour == "text":
            setattr(self, hook, "no hook at all")
        elif behaviour != "absent":
            setattr(self, hook, self._hook(hook, behaviour))

    def _hook(self, hook: str, behaviour: str) -> Callable[..., Any]:
        def note(arguments: tuple[Any, ...]) -> None:
            self._calls.append((self.name, hook, len(arguments)))
            if behaviour.startswith("raise"):
                raise ValueError(f"{self.name} in {hook}")
            if behaviour.startswith("halt"):
                raise exceptions.AddonHalt

        async def late(*arguments: Any) -> None:
            if behaviour != "await":
                await asyncio.sleep(0)
            note(arguments)

        def future(*arguments: Any) -> Awaitable[None]:
            return late(*arguments)

        def now(*arguments: Any) -> str:
            note(arguments)
            return "what a hook returns is nobody's"

        return {"future": future}.get(behaviour) or (
            late if behaviour in ("wait", "await", "raise_late", "halt_late") else now
        )


class Parent(Recorder):
    def __init__(self, name: str, behaviours: dict[str, str], calls: Calls, children: list[Recorder]) -> None:
        super().__init__(name, behaviours, calls)
        self.addons = children


@dataclass
class Spec:
    """What an addon is made from, once for each of the two runs that are compared."""

    behaviours: dict[str, str]
    children: list[Spec] = field(default_factory=list)

    def make(self, name: str, calls: Calls) -> Recorder:
        if not self.children:
            return Recorder(name, self.behaviours, calls)
        children = [child.make(f"{name}.{number}", calls) for number, child in enumerate(self.children)]
        return Parent(name, self.behaviours, calls, children)


behaviours = st.dictionaries(st.sampled_from(HOOKS), st.sampled_from(BEHAVIOURS), max_size=4)
specs = st.recursive(
    st.builds(Spec, behaviours), lambda inner: st.builds(Spec, behaviours, st.lists(inner, max_size=3)), max_leaves=4
)
steps = st.one_of(
    st.tuples(st.just("fire"), st.sampled_from(("request", "response", "client_connected"))),
    st.tuples(st.just("trigger"), st.sampled_from(("request", "update"))),
    st.tuples(st.just("add"), specs),
    st.tuples(st.just("remove"), st.integers(0, 5)),
    st.tuples(
        st.just("replace"), st.integers(0, 5), st.sampled_from(HOOKS), st.sampled_from(("call", "raise", "wait"))
    ),
    st.tuples(st.just("configure")),
    st.tuples(st.just("turn")),
)


@contextmanager
def logged_faults() -> Iterator[list[str]]:
    """What is logged about addons, with the traceback as people see it."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = logging.Formatter().format(record)
            # The one fault that is raised by the dispatch itself, from another file.
            lines.append(line.partition("\n")[0] if "not callable" in line else line)

    handler = Handler()
    addonmanager.logger.addHandler(handler)
    try:
        yield lines
    finally:
        addonmanager.logger.removeHandler(handler)


def run_with_master(scenario: Callable[[Master], Awaitable[None]]) -> None:
    async def run() -> None:
        master = Master(options.Options())
        master._legacy_log_events.uninstall()
        await scenario(master)

    asyncio.run(run())


def observe(chain: list[Spec], script: list[tuple[Any, ...]], *, prepared: bool) -> tuple[Calls, list[str]]:
    """All calls and all logged faults of one run."""
    calls: Calls = []

    async def scenario(master: Master) -> None:
        for number, spec in enumerate(chain):
            master.addons.add(spec.make(f"addon{number}", calls))
        if prepared:
            assert dispatch.install(master) is None
        for number, (what, *how) in enumerate(script):
            await step(master, calls, number, what, *how)

    with logged_faults() as faults:
        run_with_master(scenario)
    return calls, faults


async def step(master: Master, calls: Calls, number: int, what: str, *how: Any) -> None:
    manager = master.addons
    match what:
        case "fire":
            flow = tflow.tflow()
            await manager.handle_lifecycle(
                {"request": HttpRequestHook, "response": HttpResponseHook}[how[0]](flow)
                if how[0] != "client_connected"
                else ClientConnectedHook(flow.client_conn)
            )
        case "trigger":
            flow = tflow.tflow()
            event = HttpRequestHook(flow) if how[0] == "request" else hooks.UpdateHook([flow])
            await manager.trigger_event(event)
        case "add":
            manager.add(how[0].make(f"late{number}", calls))
        case "remove" if manager.chain:
            manager.remove(manager.chain[how[0] % len(manager.chain)])
        case "replace" if manager.chain:
            addon = manager.chain[how[0] % len(manager.chain)]
            if getattr(addon, how[1], None):  # one that has the hook: an addon that grows one is not followed
                addon.behave(how[1], how[2])
        case "configure":
            master.options.update(showhost=not master.options.showhost)
        case "turn":
            await asyncio.sleep(0)


@given(st.lists(specs, max_size=5), st.lists(steps, max_size=12))
def test_the_same_calls_and_the_same_logged_faults(chain: list[Spec], script: list[tuple[Any, ...]]) -> None:
    assert observe(chain, script, prepared=True) == observe(chain, script, prepared=False)


def test_update_is_called_after_each_hook_of_a_flow_and_no_other() -> None:
    chain = [Spec({"request": "call", "update": "call", "client_connected": "call"})]
    calls, _ = observe(chain, [("fire", "request"), ("fire", "client_connected")], prepared=True)
    assert [hook for _, hook, _ in calls] == ["request", "update", "client_connected"]


def test_mitmproxy_names_the_argument_of_its_hooks_of_a_flow_alike() -> None:
    """By this name it is known which hooks `update` follows."""
    of_a_flow = {
        hook
        for hook in hooks.all_hooks.values()
        for argument in fields(hook)  # type: ignore[arg-type]  # every hook is a dataclass
        if isinstance(argument.type, type) and issubclass(argument.type, flow.Flow)
    }
    named = {hook for hook in hooks.all_hooks.values() if [argument.name for argument in fields(hook)] == ["flow"]}  # type: ignore[arg-type]
    assert HttpRequestHook in named
    assert named == of_a_flow


def test_a_fault_ends_its_own_link_of_the_chain_only() -> None:
    chain = [
        Spec({}, [Spec({"request": "raise"}), Spec({"request": "call"})]),
        Spec({"request": "call"}),
    ]
    calls, faults = observe(chain, [("fire", "request")], prepared=True)
    assert [name for name, _, _ in calls] == ["addon0.0", "addon1"]
    assert len(faults) == 1
    assert faults[0].startswith("Addon error: addon0.0 in request")


def test_a_hook_that_is_no_function_is_told_as_mitmproxy_does() -> None:
    _, faults = observe([Spec({"request": "text"})], [("fire", "request")], prepared=True)
    assert "not callable" in faults[0]


def test_options_errors_go_to_the_caller() -> None:
    class Refusing:
        def request(self, flow: http.HTTPFlow) -> None:
            raise exceptions.OptionsError("no")

    async def scenario(master: Master) -> None:
        master.addons.add(Refusing())
        dispatch.install(master)
        with pytest.raises(exceptions.OptionsError):
            await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    run_with_master(scenario)


class Late:
    """Registers a child as mitmproxy's scripts do: it takes its place only after `register` has returned."""

    def __init__(self, child: object) -> None:
        self.child = child
        self.addons: list[object] = []

    def begin(self, master: Master) -> None:
        master.addons.register(self.child)
        fire_and_forget(master)  # something fires before the parent has put the child in its place
        self.addons = [self.child]


def fire_and_forget(master: Master) -> None:
    event = HttpRequestHook(tflow.tflow())
    with pytest.raises(StopIteration):
        master.addons.handle_lifecycle(event).send(None)


def test_a_child_that_takes_its_place_after_it_was_registered_is_called() -> None:
    calls: Calls = []

    async def scenario(master: Master) -> None:
        parent = Late(Recorder("child", {"request": "call"}, calls))
        master.addons.add(parent)
        dispatch.install(master)
        parent.begin(master)
        await asyncio.sleep(0)
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    run_with_master(scenario)
    assert [name for name, _, _ in calls] == ["child"]


def test_a_parent_that_changes_the_order_of_its_children_when_it_is_configured() -> None:
    """As mitmproxy's script loader does: nothing is registered then, and nothing removed."""
    calls: Calls = []

    class Reordering(Parent):
        def configure(self, updated: set[str]) -> None:
            self.addons.reverse()

    async def scenario(master: Master) -> None:
        children = [Recorder(name, {"request": "call"}, calls) for name in ("a", "b")]
        master.addons.add(Reordering("parent", {}, calls, children))
        dispatch.install(master)
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))
        master.options.update(showhost=True)
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    run_with_master(scenario)
    assert [name for name, _, _ in calls] == ["a", "b", "b", "a"]


def test_what_is_changed_in_the_chain_by_hand_is_seen() -> None:
    calls: Calls = []

    async def scenario(master: Master) -> None:
        dispatch.install(master)
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))
        master.addons.chain.insert(0, Recorder("inserted", {"request": "call"}, calls))
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    run_with_master(scenario)
    assert [name for name, _, _ in calls] == ["inserted"]


def test_events_under_way_go_on_when_it_is_uninstalled() -> None:
    calls: Calls = []
    chain = [Spec({"request": "wait"}), Spec({"request": "wait", "update": "call"}), Spec({"request": "raise"})]

    async def scenario(master: Master) -> None:
        for number, spec in enumerate(chain):
            master.addons.add(spec.make(str(number), calls))
        dispatch.install(master)
        under_way = asyncio.ensure_future(master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow())))
        await asyncio.sleep(0)
        dispatch.uninstall(master)
        assert type(master.addons) is AddonManager
        await under_way

    run_with_master(scenario)
    assert [(name, hook) for name, hook, _ in calls] == [
        ("0", "request"), ("1", "request"), ("2", "request"), ("1", "update"),
    ]  # fmt: skip


def test_it_may_be_installed_twice_and_leaves_nothing_behind() -> None:
    async def scenario(master: Master) -> None:
        before = set(vars(master.addons))
        assert dispatch.install(master) is None
        assert dispatch.install(master) is None
        dispatch.uninstall(master)
        dispatch.uninstall(master)
        assert type(master.addons) is AddonManager
        assert set(vars(master.addons)) == before

    run_with_master(scenario)


def test_an_addon_manager_of_somebody_else_is_left_alone() -> None:
    class Other(AddonManager):
        pass

    async def scenario(master: Master) -> None:
        master.addons.__class__ = Other
        reason = dispatch.install(master)
        assert reason is not None
        assert type(master.addons) is Other

    run_with_master(scenario)

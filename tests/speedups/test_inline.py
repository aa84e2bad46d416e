"""Writes go out together, but never later than what follows them; hooks are answered after the event that asked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpRequestHook  # type: ignore[attr-defined]
from mitmproxy.test import tflow

from mitmproxy_moesif.speedups.inline import WRITE_TOGETHER, InlineHandler, InlineHooks

CLIENT = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2))
SERVER = connection.Server(address=("127.0.0.1", 3))

type Seen = list[tuple[str, Any]]


class Layers:
    """A top layer that yields what it is told, and notes the answers to its hooks."""

    def __init__(self, script: list[commands.Command], seen: Seen) -> None:
        self._script = script
        self._seen = seen

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        if isinstance(event, events.HookCompleted):
            self._seen.append(("answered", event.command))
        else:
            yield from self._script


class Handler:
    """Answers hooks at once and notes when."""

    answers_hooks = True

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def run_hook(self, hook: commands.StartHook) -> bool:
        self._seen.append(("hook", hook))
        return True


def run(script: list[commands.Command]) -> Seen:
    """What happens, in order: writes as (peer, bytes), other commands, hooks, and their answers."""
    seen: Seen = []
    hooks = InlineHooks(cast(InlineHandler, Handler(seen)), cast(Any, Layers(script, seen)))
    for command in hooks.handle_event(events.Start()):
        if isinstance(command, commands.SendData):
            seen.append(("client" if command.connection is CLIENT else "server", command.data))
        else:
            seen.append(("command", command))
    return seen


def joined(seen: Seen) -> Seen:
    """Writes to the same peer that follow each other as one."""
    result: Seen = []
    for kind, group in groupby(seen, key=lambda item: item[0]):
        items = [value for _, value in group]
        result += [(kind, b"".join(items))] if kind in ("client", "server") else [(kind, item) for item in items]
    return result


def write(peer: connection.Connection, data: bytes) -> commands.SendData:
    return commands.SendData(peer, data)


pieces = st.one_of(
    st.builds(write, st.sampled_from([CLIENT, SERVER]), st.binary(min_size=1, max_size=4)),
    st.builds(lambda: commands.CloseConnection(SERVER)),
    st.builds(lambda: HttpRequestHook(tflow.tflow())),
    st.builds(lambda: commands.Log("anything")),
)


@given(st.lists(pieces, max_size=12))
def test_everything_happens_in_the_order_in_which_it_was_asked_for(script: list[commands.Command]) -> None:
    expected: Seen = []
    for command in script:
        if isinstance(command, commands.SendData):
            expected.append(("client" if command.connection is CLIENT else "server", command.data))
        else:
            expected.append(("hook" if isinstance(command, HttpRequestHook) else "command", command))
    answers = [("answered", command) for command in script if isinstance(command, HttpRequestHook)]
    assert joined(run(script)) == joined(expected) + answers


def test_small_writes_to_one_peer_are_one() -> None:
    script: list[commands.Command] = [write(CLIENT, b"head"), write(CLIENT, b"body"), write(SERVER, b"x")]
    assert run(script) == [("client", b"headbody"), ("server", b"x")]


def test_large_writes_are_not_copied() -> None:
    large = b"x" * WRITE_TOGETHER
    script: list[commands.Command] = [write(CLIENT, b"head"), write(CLIENT, large), write(CLIENT, b"tail")]
    assert run(script) == [("client", b"head"), ("client", large), ("client", b"tail")]


def test_what_was_written_before_a_crash_goes_out() -> None:
    class Crashing(Layers):
        def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
            yield write(CLIENT, b"before")
            raise RuntimeError("a fault in a layer")

    seen: Seen = []
    hooks = InlineHooks(cast(InlineHandler, Handler(seen)), cast(Any, Crashing([], seen)))
    handling = hooks.handle_event(events.Start())
    first = next(handling)
    assert isinstance(first, commands.SendData)
    assert first.data == b"before"
    with pytest.raises(RuntimeError):
        next(handling)

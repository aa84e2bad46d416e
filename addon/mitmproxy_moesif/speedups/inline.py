"""A connection whose hooks run where its layers ask for them, and whose small writes go out together.

mitmproxy makes a task for each hook, which then waits for the lock that is held by the very event that asked for the
hook: a turn of the event loop for each of the four to six hooks of an exchange. And it writes the head of a streamed
message and its body one by one: a system call and a packet more in each direction.

Both are done here while one event is handled, so nothing leaves later than it would: what was held back is written
before a hook runs, before any other command, and at the end of the event.

An addon of the name `CARRIER` may carry a connection in place of the layers; so may whatever a hook names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from mitmproxy import flow
from mitmproxy.proxy import commands, events, layer, mode_servers, server_hooks
from mitmproxy.proxy.context import Context
from mitmproxy.utils import asyncio_utils

from mitmproxy_moesif.speedups.dispatch import PreparedAddonManager

WRITE_TOGETHER = 65_536
"""Bytes. Larger writes gain nothing from being copied into one."""

CARRIER = "moesif_carrier"


class InlineHooks:
    """Stands before a connection's top layer and answers its hooks. The handler sees all other commands."""

    def __init__(self, handler: InlineHandler, top: layer.Layer) -> None:
        self.handler = handler
        self.top = top

    @property
    def context(self) -> Context:
        return self.top.context

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        following = [event]
        crash: Exception | None = None
        for each in following:
            try:
                for command in written_together(self.top.handle_event(each)):
                    if isinstance(command, commands.StartHook) and self.handler.answers_hooks:
                        if self.handler.run_hook(command):
                            following.append(events.HookCompleted(command))
                    else:
                        yield command
            except Exception as error:  # noqa: BLE001 - raised below, when the hooks that were asked for have ended
                crash = crash or error
        if crash is not None:
            raise crash


def written_together(asked: Iterable[commands.Command]) -> Iterator[commands.Command]:
    """The same commands in the same order, with small writes that follow each other as one; also before a crash."""
    held: commands.SendData | None = None
    try:
        for command in asked:
            if type(command) is commands.SendData:
                if held is not None and (both := together(held, command)) is None:
                    yield held
                    held = command
                else:
                    held = command if held is None else both
            elif not is_noise(command):
                if held is not None:
                    yield held
                    held = None
                yield command
    except Exception:
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held


def together(first: commands.SendData, second: commands.SendData) -> commands.SendData | None:
    """Both writes as one, where they are small and go to the same peer."""
    if first.connection is second.connection and len(first.data) + len(second.data) <= WRITE_TOGETHER:
        return commands.SendData(first.connection, first.data + second.data)
    return None


def is_noise(command: commands.Command) -> bool:
    """A line in the log for every streamed body: with a copy kept of each, two for every exchange."""
    return type(command) is commands.Log and command.message.startswith("Streaming re")


class InlineHandler(mode_servers.ProxyConnectionHandler):
    """mitmproxy's handler of a client connection with `InlineHooks` before its top layer."""

    is_known = False
    """Whether hooks and log have been told of the client already."""
    carry: Callable[[], Awaitable[None]] | None = None
    """What carries the connection from the end of this event on. Meanwhile the layers hear of nothing."""

    async def handle_client(self) -> None:
        carrier = self.master.addons.get(CARRIER)
        if carrier is None or not await carrier.carry(self):
            await super().handle_client()

    async def server_event(self, event: events.Event) -> None:
        await super().server_event(event)
        if (carry := self.carry) is not None:
            self.carry = None
            with self.timeout_watchdog.disarm():
                await carry()

    async def handle_hook(self, hook: commands.StartHook) -> None:
        if not (self.is_known and isinstance(hook, server_hooks.ClientConnectedHook)):
            await super().handle_hook(hook)

    def log(self, message: str, *how: Any, **more: Any) -> None:
        if not (self.is_known and message == "client connect"):
            super().log(message, *how, **more)

    @property
    def layer(self) -> Any:  # as much of a layer as a handler uses
        return self._inline

    @layer.setter
    def layer(self, top: layer.Layer) -> None:
        self._inline = InlineHooks(self, top)

    @property
    def answers_hooks(self) -> bool:
        """False once the prepared dispatch has been taken away; this connection goes on as mitmproxy's do."""
        return isinstance(self.master.addons, PreparedAddonManager)

    def run_hook(self, hook: commands.StartHook) -> bool:
        """Run a hook; whether it has ended and is waited for. If it awaits something, it goes on in a task."""
        manager = self.master.addons
        assert isinstance(manager, PreparedAddonManager)
        rest = manager.run(hook)
        (data,) = hook.args()
        if rest is None and not (isinstance(data, flow.Flow) and data.intercepted):
            return bool(hook.blocking)
        finishing = asyncio_utils.create_task(
            self.finish(rest, data), name=f"handle_hook({hook.name})", keep_ref=True, client=self.client.peername
        )
        if finishing.done():  # tasks start at once: a coroutine that never had to wait has ended by now
            finishing.result()
            return bool(hook.blocking)
        if hook.blocking:
            asyncio_utils.create_task(
                self.answer(hook, finishing), name=f"answer({hook.name})", keep_ref=True, client=self.client.peername
            )
        return False

    async def finish(self, rest: Awaitable[None] | None, data: Any) -> None:
        """The part of a hook that takes time; the connection does not time out meanwhile."""
        with self.timeout_watchdog.disarm():
            if rest is not None:
                await rest
            if isinstance(data, flow.Flow):
                await data.wait_for_resume()

    async def answer(self, hook: commands.StartHook, finishing: Awaitable[None]) -> None:
        await finishing
        await self.server_event(events.HookCompleted(hook))

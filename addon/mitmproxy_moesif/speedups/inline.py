"""A connection handler that runs hooks inline instead of in tasks, and merges small writes.

mitmproxy creates a task for each hook, which then waits for the lock held by the very event that requested the hook.
This costs a turn of the event loop for each of the four to six hooks of an exchange. It also writes the head and the
body of a streamed message separately: one more system call and packet in each direction.

Here both happen while one event is handled, so nothing is sent later than before: pending data is written before a hook
runs, before any other command, and at the end of the event.

An addon named `CARRIER` may serve a connection instead of mitmproxy's layers, and so may a `carry` set by a hook.
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
"""Maximum bytes of a merged write. Copying larger writes into one gains nothing."""

CARRIER = "moesif_carrier"


class InlineHooks:
    """Wraps a connection's top layer and runs its hooks. The handler gets all other commands."""

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
            except Exception as error:  # noqa: BLE001 - raised below, after the requested hooks have run
                crash = crash or error
        if crash is not None:
            raise crash


def written_together(asked: Iterable[commands.Command]) -> Iterator[commands.Command]:
    """The same commands in the same order, with consecutive small writes merged. Also sends pending data at a crash."""
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
    """Both writes merged into one, or None if they are too large or go to different peers."""
    if first.connection is second.connection and len(first.data) + len(second.data) <= WRITE_TOGETHER:
        return commands.SendData(first.connection, first.data + second.data)
    return None


def is_noise(command: commands.Command) -> bool:
    """Whether this logs "Streaming request/response": that would be two log lines for every exchange."""
    return type(command) is commands.Log and command.message.startswith("Streaming re")


class InlineHandler(mode_servers.ProxyConnectionHandler):
    """mitmproxy's handler of a client connection, with `InlineHooks` around its top layer."""

    is_known = False
    """Whether the client's connection was already logged and passed to hooks."""
    carry: Callable[[], Awaitable[None]] | None = None
    """Set to serve the connection once the current event is handled. The layers get no events meanwhile."""

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
    def layer(self) -> Any:  # has the methods of a layer that a handler uses
        return self._inline

    @layer.setter
    def layer(self, top: layer.Layer) -> None:
        self._inline = InlineHooks(self, top)

    @property
    def answers_hooks(self) -> bool:
        """False once the prepared dispatch is uninstalled; this connection then behaves like mitmproxy's own."""
        return isinstance(self.master.addons, PreparedAddonManager)

    def run_hook(self, hook: commands.StartHook) -> bool:
        """Run a hook. True if it has ended and the layer waits for that. If it awaits, it continues in a task."""
        manager = self.master.addons
        assert isinstance(manager, PreparedAddonManager)
        rest = manager.run(hook)
        (data,) = hook.args()
        if rest is None and not (isinstance(data, flow.Flow) and data.intercepted):
            return bool(hook.blocking)
        finishing = asyncio_utils.create_task(
            self.finish(rest, data), name=f"handle_hook({hook.name})", keep_ref=True, client=self.client.peername
        )
        if finishing.done():  # tasks start eagerly, so a coroutine that did not wait has already ended
            finishing.result()
            return bool(hook.blocking)
        if hook.blocking:
            asyncio_utils.create_task(
                self.answer(hook, finishing), name=f"answer({hook.name})", keep_ref=True, client=self.client.peername
            )
        return False

    async def finish(self, rest: Awaitable[None] | None, data: Any) -> None:
        """Await the rest of a hook. The connection does not time out meanwhile."""
        with self.timeout_watchdog.disarm():
            if rest is not None:
                await rest
            if isinstance(data, flow.Flow):
                await data.wait_for_resume()

    async def answer(self, hook: commands.StartHook, finishing: Awaitable[None]) -> None:
        await finishing
        await self.server_event(events.HookCompleted(hook))

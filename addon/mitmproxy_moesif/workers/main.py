"""`moesif-proxy`: the entry point for production, in this process or with several workers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy import hangups
from mitmproxy_moesif.proxy.arguments import Arguments, parse
from mitmproxy_moesif.proxy.console import quiet_log
from mitmproxy_moesif.speedups import versions
from mitmproxy_moesif.workers.supervisor import Supervisor


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code. Invalid `arguments` end the process with code 2."""
    if arguments[:1] == ["spool"]:
        from mitmproxy_moesif.delivery import command

        return command.main(arguments[1:])
    hangups.hold()
    parsed = parse(arguments)
    quiet_log()
    if parsed.options:
        from mitmproxy_moesif.proxy import serve

        return serve.list_options(parsed)
    if parsed.workers > 1 and (reason := not_shared()) is not None:
        log.warning("moesif-proxy: %s: running one worker", reason)
    elif parsed.workers > 1:
        return supervise(parsed, arguments)
    from mitmproxy_moesif.proxy import serve  # imports mitmproxy, which a supervisor does not need

    return serve.run(parsed, serve.Standalone())


def not_shared() -> str | None:
    """Why several processes cannot listen on one port; None if they can."""
    return versions.untested() if hasattr(socket, "SO_REUSEPORT") else "this system has no SO_REUSEPORT"


def supervise(parsed: Arguments, arguments: Sequence[str]) -> int:
    async def run() -> int:
        return await Supervisor(parsed, arguments).run()

    try:
        return asyncio.run(run())
    except OSError as error:
        log.error("moesif-proxy: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

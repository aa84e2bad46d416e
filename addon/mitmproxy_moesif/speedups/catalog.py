"""The list of everything that makes a running mitmproxy faster.

Speed (requests per CPU time) relative to stock mitmdump without addons, with 1 KB of JSON each way over 8 connections;
median and range of 6 interleaved rounds, mitmproxy 12.2.3, Python 3.13, 2 cores:

    full capture, mitmproxy as it is   0.64 [0.58-0.71]
    + prepared dispatch                1.04 [0.94-1.13]
    + log events only where heard      1.13 [1.02-1.31]
    + hooks inline, writes together    1.39 [1.22-1.52]
    + options without copies           1.42 [1.32-1.59]
    + messages checked at once         1.68 [1.57-1.93]
    + headers by length                1.67 [1.59-2.06]
    + forks without a server           1.79 [1.58-2.07]

Without the capture, all of them together give 2.98 [2.86-3.33]. Leaving one out costs: options 5 %, headers 7 % and
3 %, forks 7 %, checks 24 %, inline 15 %. `spare_the_collector` was added later and saves 2 to 7 % of the CPU time.
"""

from __future__ import annotations

import gc

from mitmproxy import http, log, options
from mitmproxy.master import Master
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.context import Context

from mitmproxy_moesif.speedups import dispatch, savings
from mitmproxy_moesif.speedups.inline import InlineHandler
from mitmproxy_moesif.speedups.replacing import exchange_class, put_back, put_in_place, replacement

REPLACEMENTS = (
    replacement(mode_servers, "ProxyConnectionHandler", InlineHandler),
    *([replacement(http.MessageData, "__post_init__", savings.check_fields)] if savings.check_every_field else []),
    replacement(http.Headers, "get_all", savings.get_all),
    replacement(http.Headers, "get", savings.get),
    replacement(Context, "fork", savings.fork),
)


def install(master: Master) -> str | None:
    """Install everything, unless it is installed already. Returns why it stays off, or None."""
    if isinstance(master.addons, dispatch.PreparedAddonManager):
        return None
    if (reason := dispatch.install(master)) is not None:
        return reason
    exchange_class(master.options, options.Options, savings.PlainOptions)
    exchange_class(master._legacy_log_events, log.LegacyLogEvents, savings.HeardLogEvents)  # noqa: SLF001
    put_in_place(REPLACEMENTS)
    spare_the_collector()
    return None


def spare_the_collector() -> None:
    """Exclude what startup created (36 addons and all their modules) from garbage collection.

    There is no full collection first: clients wait, and it would take longer than everything else here.
    """
    gc.collect(1)  # the young generations only
    gc.freeze()


def uninstall(master: Master) -> None:
    """Remove everything. Open connections continue; their hooks go through mitmproxy's own dispatch again."""
    dispatch.uninstall(master)
    exchange_class(master.options, savings.PlainOptions, options.Options)
    exchange_class(master._legacy_log_events, savings.HeardLogEvents, log.LegacyLogEvents)  # noqa: SLF001
    put_back(REPLACEMENTS)
    gc.unfreeze()

"""The start report: one block that shows what is in force, and one line for each unreachable upstream."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.policy import credentials_in_force, masks_in_force
from mitmproxy_moesif.config.settings import Settings, option_name
from mitmproxy_moesif.config.text import number_of, reason_of
from mitmproxy_moesif.log import log
from mitmproxy_moesif.runtime import Prepared

PROBE_SECONDS = 2.0
MOST = 3
"""How many receivers, upstreams and so on are listed by name."""

LABEL, END = "\033[1m", "\033[0m"


def tell(prepared: Prepared, modes: Iterable[str], folder: Path | None) -> None:
    """Log the report. Another thread tries the upstreams and logs those that cannot be reached."""
    upstreams = [mode.removeprefix("reverse:") for mode in modes if mode.startswith("reverse:")]
    log.info("moesif: started\n%s", block(prepared, upstreams, folder, coloured=sys.stderr.isatty()))
    threading.Thread(target=lambda: list(map(try_upstream, upstreams)), name="moesif-start", daemon=True).start()


def block(prepared: Prepared, upstreams: Iterable[str], folder: Path | None, *, coloured: bool = False) -> str:
    """The report's lines. They contain no passwords from URLs, application ids or other secrets."""
    label, end = (LABEL, END) if coloured else ("", "")
    lines = in_force(prepared, [shown(each) for each in upstreams], folder)
    return "\n".join(f"  {label}{name + ':':<11}{end} {text}" for name, text in lines)


def in_force(prepared: Prepared, upstreams: list[str], folder: Path | None) -> Iterator[tuple[str, str]]:
    """Pairs of a label and its text."""
    settings = prepared.instance.settings
    if upstreams:
        yield "upstream", some(upstreams)
    if not settings.enabled:
        yield "capture", "off (enabled=false): traffic passes, nothing is captured"
        return
    urls = akto(prepared)
    nobody = "nobody" if urls else "nobody yet"
    yield "events to", some(sorted({*map(receiver, prepared.instances)} - {""})) or nobody
    if urls:
        yield "records to", some(urls)
    yield "spool", f"{folder}" if folder is not None else "off: events are in memory only"
    if settings.kong_config is not None or settings.kong_admin_url is not None:
        yield "kong", kong(prepared)
        if names := overrides(prepared):
            yield "overrides", overriding(names)
    yield from rules(prepared)
    if (hooks := prepared.instance.hooks) is not None:
        yield "hooks", f"{', '.join(hooks.functions)} ({hooks.path})"
    yield "masks", masks(prepared)
    yield from sampling(settings)


def receiver(instance: Instance) -> str:
    settings = instance.settings
    first = None
    if settings.kafka_brokers:
        first = f"Kafka at {', '.join(settings.kafka_brokers)}, topic {settings.kafka_topic}"
    elif settings.application_id.get_secret_value():
        first = shown(settings.api_endpoint)
    return " and ".join(filter(None, (first, settings.sink_file)))


def akto(prepared: Prepared) -> list[str]:
    return [f"{place} (Akto)" for place in sorted({target.place for target in prepared.akto})]


def kong(prepared: Prepared) -> str:
    source = prepared.instance.settings.kong_config or shown(prepared.instance.settings.kong_admin_url or "")
    if prepared.kong is None or prepared.resolver is None:
        return f"{source}: not known yet, nothing is captured until it is"
    config = prepared.kong
    known = (("service", config.services), ("route", config.routes), ("instance", prepared.resolver.instances))
    return f"{', '.join(number_of(len(entries), name) for name, entries in known)} ({source})"


def overrides(prepared: Prepared) -> list[str]:
    """Names of the options and environment variables that override Kong's entries, without values."""
    if prepared.kong is None:
        return []
    from mitmproxy_moesif.kong.resolver import overridden

    options = {name: option_name(name) for name in overridden(prepared.kong, prepared.given)}
    return [
        option.upper() if os.environ.get(option.upper()) == prepared.given[name] else f"--set {option}"
        for name, option in options.items()
    ]


def overriding(names: list[str]) -> str:
    return f"{some(names)}: in effect instead of Kong's entries" if names else "none any more"


def rules(prepared: Prepared) -> Iterator[tuple[str, str]]:
    settings, own = prepared.instance.settings, prepared.local_rules
    if settings.governance == "off":
        yield "rules", "off (governance=off)"
    elif own.path is not None:
        yield "rules", f"{len(own.rules.rules)} local ({own.path}), and Moesif's"


def masks(prepared: Prepared) -> str:
    """What is masked in events; listed per entry if Kong's entries differ."""
    instances = prepared.instances or [prepared.instance]
    said = {each.name: masks_in_force(each.settings) for each in instances}
    credentials = {each.name: credentials_in_force(each.settings) for each in instances}
    alike = set(credentials.values()) if len(set(credentials.values())) == 1 else set()
    if not alike:
        said = {name: f"{names}; {credentials[name]}" for name, names in said.items()}
    return "; ".join([_of_each(prepared, said), *alike])


def _of_each(prepared: Prepared, said: Mapping[str, str]) -> str:
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{called(prepared, name)}: {said[name]}" for name in list(said)[:MOST]) + more(len(said))


def called(prepared: Prepared, name: str) -> str:
    """The name of an instance. For an entry of Kong's without a name it is the scope: its id tells users nothing."""
    if (resolver := prepared.resolver) is None:
        return name
    return next((resolver.scopes.scope(plugin) for plugin in resolver.config.plugins if plugin.id == name), name)


def sampling(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.sample_rate == 0:
        yield "sampling", "0 %: every event is dropped (sample_rate=0)"
    elif settings.sample_rate is not None:
        yield "sampling", f"{settings.sample_rate} % (sample_rate)"
    if settings.skip is not None:
        yield "skip", settings.skip


def some(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + more(len(names))


def more(count: int) -> str:
    return f" and {count - MOST} more" if count > MOST else ""


def shown(url: str) -> str:
    """A URL without its credentials."""
    scheme, slashes, rest = url.rpartition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def try_upstream(url: str) -> None:
    """Warn if nothing listens. Only a TCP connection is tried, because a request could have side effects upstream."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        told = "moesif: cannot reach the upstream %s: %s; requests get 502 until it is reachable"
        log.warning(told, shown(url), reason_of(error))

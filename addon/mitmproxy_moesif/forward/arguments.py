"""The command line of `moesif-proxy forward`; its settings are the proxy's, from `--set` and the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mitmproxy_moesif.config.arguments import OneLineParser, up_to
from mitmproxy_moesif.config.options import given_environment, given_settings
from mitmproxy_moesif.config.settings import Settings, SettingsError, parse_settings

MOST = 64


@dataclass(frozen=True, slots=True)
class Arguments:
    """`reports`: in a worker, the descriptor of the socket on which it reports to its supervisor."""

    settings: Settings
    group: str
    workers: int
    reports: int | None


def parse(arguments: Sequence[str]) -> Arguments:
    """Parse the command line. Exits with code 2 and one line on stderr if it is invalid."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        settings = parse_settings({**given_environment(os.environ), **given_settings(given.settings)})
        check(settings)
    except SettingsError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return Arguments(settings, given.group, given.workers, given.reports)


def check(settings: Settings) -> None:
    """Raises `SettingsError` without a source to read from, or a receiver to send to."""
    if not settings.kafka_brokers:
        raise SettingsError("kafka_brokers is missing: give --set moesif_kafka_brokers=HOST:PORT")
    if not settings.model_copy(update={"kafka_brokers": ()}).keeps_events:
        raise SettingsError("application_id is missing: give --set moesif_application_id=..., or a moesif_sink_file")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="moesif-proxy forward",
        description="Delivers the events of a Kafka topic to Moesif, as a member of a consumer group.",
        epilog="Options are those of the proxy: application_id, api_endpoint, kafka_*, batch_size, admin_listen and so "
        "on. SIGTERM ends it after sending what it has read, a second SIGTERM at once.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--group", default="moesif-forward", metavar="NAME", help="the consumer group; default: %(default)s")
    add("--workers", type=up_to(MOST), default=1, metavar="N", help="processes, each a member of the group; default: 1")
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="an option; repeatable")
    add("--reports", type=int, help=argparse.SUPPRESS)
    return parser

"""The stack with Kafka: Compose takes it, and its parts find each other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import Settings, parse_settings
from mitmproxy_moesif.forward import arguments as forward
from mitmproxy_moesif.proxy.arguments import parse
from tests.compose.tools import (
    COMPOSE,
    REQUIRED,
    Published,
    compose_config,
    environment,
    leading_comment,
    parsed,
    published,
    resolve,
    seconds,
)

ADDONS, FORWARDERS = ("addon", "addon-2"), ("forwarder", "forwarder-2")


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    told = compose_config("kafka", {"MOESIF_APPLICATION_ID": REQUIRED["MOESIF_APPLICATION_ID"]})
    assert told.returncode == 0, told.stderr
    config: dict[str, Any] = parsed(told.stdout)
    return config


def settings_of(service: dict[str, Any]) -> Settings:
    return parse_settings(given_environment(environment(service)))


@pytest.mark.parametrize("name", [*ADDONS, *FORWARDERS])
def test_all_use_the_broker_and_the_topic_that_is_made(stack: dict[str, Any], name: str) -> None:
    services = stack["services"]
    settings = settings_of(services[name])
    (broker,) = settings.kafka_brokers
    host, _, port = broker.partition(":")
    assert resolve(stack, name, host) == {("kafka", "inside")}
    kafka = environment(services["kafka"])
    assert kafka["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{broker}"
    assert f"PLAINTEXT://:{port}" in kafka["KAFKA_LISTENERS"]
    (script,) = services["topics"]["command"]
    assert re.findall(r"for topic in (.*?);", script) == [f"{settings.kafka_topic} {settings.kafka_topic}.dead"]


@pytest.mark.parametrize("name", ADDONS)
def test_an_addon_stands_in_front_of_kong_with_a_spool_of_its_own(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    arguments = parse(service["command"])
    assert arguments.upstream == "http://kong:8000"
    assert resolve(stack, name, "kong") == {("kong", "inside")}
    assert arguments.drain_timeout + settings_of(service).shutdown_timeout / 1000 < seconds(
        service["stop_grace_period"]
    )
    spools = [[one for one in stack["services"][each]["volumes"] if "/var/lib/moesif" in one] for each in ADDONS]
    assert len(spools[0]) == len(spools[1]) == 1
    assert spools[0] != spools[1]


@pytest.mark.parametrize("name", FORWARDERS)
def test_a_forwarder_starts_with_these_settings_when_the_topics_are_there(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    assert service["command"] == ["forward"]
    forward.check(settings_of(service))
    assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    assert service["healthcheck"]["test"][-1] == (settings_of(service).admin_listen or "").rpartition(":")[2]
    assert {"inside", "outside"} == set(service["networks"])


def test_only_the_addons_are_open(stack: dict[str, Any]) -> None:
    assert published(stack) == {Published("addon", None, 8000, 8080), Published("addon-2", None, 8001, 8080)}


def test_every_container_is_hardened(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) is (name not in ("kafka", "topics")), name


def test_the_command_in_the_comment_starts_this_stack() -> None:
    comment = leading_comment(COMPOSE / "kafka.yml")
    assert "docker compose -p moesif-kafka -f compose/kafka.yml up --build --wait" in comment
    assert compose_config("kafka", {}).returncode != 0

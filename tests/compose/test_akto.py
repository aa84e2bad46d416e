"""The stack with Akto: Compose takes it, and the addon, the ingest service and the runtime find each other."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.proxy.arguments import parse
from tests.compose.tools import (
    COMPOSE,
    Published,
    all_parsed,
    compose_config,
    environment,
    leading_comment,
    parsed,
    published,
    resolve,
    seconds,
)

GIVEN = {"MOESIF_APPLICATION_ID": "an-application-id", "AKTO_TOKEN": "a-token"}
AKTOS = ("data-ingestion-service", "akto-api-security-runtime", "akto-threat-detection")


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    told = compose_config("akto", GIVEN)
    assert told.returncode == 0, told.stderr
    config: dict[str, Any] = parsed(told.stdout)
    return config


@pytest.mark.parametrize("missing", GIVEN)
def test_what_must_be_set_is_asked_for_and_is_in_the_example(missing: str) -> None:
    told = compose_config("akto", {name: value for name, value in GIVEN.items() if name != missing})
    assert told.returncode != 0
    assert missing in told.stderr
    named = re.findall(r"^(\w+)=$", (COMPOSE / ".env.example").read_text(), re.MULTILINE)
    assert set(named) == set(GIVEN)


def test_the_addon_delivers_to_both(stack: dict[str, Any]) -> None:
    service = stack["services"]["addon"]
    settings = parse_settings(given_environment(environment(service)))
    assert settings.keeps_events
    assert settings.akto_service_url is not None
    url = urlsplit(settings.akto_service_url)
    assert resolve(stack, "addon", url.hostname or "") == {("data-ingestion-service", "akto")}
    assert published(stack) == {
        Published("addon", None, 8000, 8080),
        Published("data-ingestion-service", "127.0.0.1", 9091, url.port or 0),
    }
    arguments = parse(service["command"])
    assert arguments.drain_timeout + settings.shutdown_timeout / 1000 < seconds(service["stop_grace_period"])


def test_nobody_waits_for_akto(stack: dict[str, Any]) -> None:
    assert not {*AKTOS, "kafka1"} & stack["services"]["addon"]["depends_on"].keys()


@pytest.mark.parametrize("name", AKTOS)
def test_akto_s_parts_use_one_broker_and_topic(stack: dict[str, Any], name: str) -> None:
    given = environment(stack["services"][name])
    host, _, port = given["AKTO_KAFKA_BROKER_URL"].partition(":")
    assert resolve(stack, name, host) == {("kafka1", "akto")}
    assert environment(stack["services"]["kafka1"])["KAFKA_ADVERTISED_LISTENERS"] == f"INSIDE://{host}:{port}"
    assert given["AKTO_KAFKA_TOPIC_NAME"] == "akto.api.logs"


def test_akto_s_parts_stand_apart_from_kong(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "addon" or len(service["networks"]) == 1, name


def test_the_commands_in_the_comment_start_this_stack() -> None:
    comment = leading_comment(COMPOSE / "akto.yml")
    assert "docker compose -p moesif-akto --env-file compose/.env -f compose/akto.yml up --build --wait" in comment
    assert "cp compose/.env.example compose/.env" in comment
    assert len(all_parsed((COMPOSE / "akto.yml").read_text())) == 1

"""Akto's parameters: their options, environment names and values."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mitmproxy_moesif.config.akto import OFF, AktoTarget
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import SettingsError, option_name, parse_settings

URL = "http://akto.test:9091/base/"


def target(**parameters: Any) -> AktoTarget | None:
    return AktoTarget.of(parse_settings({"akto_service_url": URL, **parameters}))


def test_a_url_alone_turns_it_on() -> None:
    assert target() == AktoTarget("http://akto.test:9091/base", 30.0, logging.WARNING, "1000000", "")
    assert target(akto_service_url=None) is None


def test_its_name_tells_no_scheme_and_no_key() -> None:
    found = target(akto_api_key="s3cret")
    assert found is not None
    assert found.name == "akto@akto.test:9091_base"
    assert found.api_key == "s3cret"
    assert "s3cret" not in repr(found)


def test_it_is_enough_of_a_receiver_and_keeps_no_event() -> None:
    settings = parse_settings({"akto_service_url": URL})
    assert (settings.has_receiver, settings.keeps_events) == (True, False)


def test_options_and_environment_have_the_names_of_its_own_plugin() -> None:
    """Other names that begin like these are those of Akto's own software."""
    assert (option_name("akto_service_url"), option_name("batch_size")) == ("akto_service_url", "moesif_batch_size")
    environment = {"AKTO_SERVICE_URL": URL, "AKTO_LOG_LEVEL": "info", "AKTO_KAFKA_GROUP_ID_CONFIG": "x"}
    assert given_environment(environment) == {"akto_service_url": URL, "akto_log_level": "info"}
    with pytest.raises(SettingsError, match="MOESIF_AKTO_SERVICE_URL: there is no such parameter; did you mean AKTO_"):
        given_environment({"MOESIF_AKTO_SERVICE_URL": URL})


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"akto_service_url": "akto:9091"}, "akto_service_url: must be an http or https URL without credentials"),
        ({"akto_log_level": "loud"}, "akto_log_level: should be 'debug', 'info', 'warn' or 'error', 'loud' was given"),
        ({"akto_timeout": 0}, "akto_timeout: should be greater than 0, 0 was given"),
        ({"akto_account_id": "mine"}, "akto_account_id: string should match pattern"),
        ({"akto_api_key": "k\u00e9y"}, "akto_api_key: must be printable ASCII, as it goes into a header"),
    ],
)
def test_what_cannot_be_is_one_line(parameters: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        target(**parameters)
    assert line in str(refused.value)


def test_an_instance_gets_and_loses_it_without_being_compiled_again() -> None:
    instance = Instance.compile(parse_settings({"application_id": "x"}))
    with_it = instance.with_akto(parse_settings({"akto_service_url": URL}))
    assert with_it.akto is not None
    assert with_it.akto.url == URL.rstrip("/")
    assert (with_it.policy, with_it.destination) == (instance.policy, instance.destination)
    assert parse_settings({**with_it.settings.model_dump(include=with_it.settings.model_fields_set)}).akto_service_url
    assert with_it.with_akto(OFF).akto is None

"""Values that can never be right are refused whichever way they come, and the refusal names the parameter."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mitmproxy_moesif.admin.parameters import FIXED
from mitmproxy_moesif.admin.source import SchemaViolation
from mitmproxy_moesif.config.fields import SettingsError, plain_types
from mitmproxy_moesif.config.settings import Settings, parse_settings
from mitmproxy_moesif.kong.declarative import KongConfigError, parse_declarative
from mitmproxy_moesif.kong.errors import OPTIONS_ID
from mitmproxy_moesif.kong.resolver import parse_instance
from tests.admin.test_kong_plugins import ORDERS, Proxy, kong
from tests.admin.test_local_plugins import Options

SECRET = "5ecre7"
CHANGEABLE = [name for name in Settings.model_fields if name not in FIXED and name != "enabled"]
HEADERS = (
    *("user_id_header", "company_id_header", "authorization_header_name"),
    *("request_header_masks", "response_header_masks"),
)

UNFIT = st.builds("{}{}{}".format, st.just(SECRET), st.sampled_from(["\0", "\r\n", "\n", "\x1b", "\x85"]), st.just("x"))
RECORDS = st.dictionaries(st.sampled_from(["a", ""]), st.just("a"), max_size=1)
JARGON = re.compile("valid|tuple|integer|boolean|pars|finite")
FILLED_RECORDS = st.just({"a": "a"})
"""An empty one is an empty list, as to Kong."""


def wrong_values(name: str) -> st.SearchStrategy[Any]:
    """Of a parameter: values of other types, and texts that no header, event or file can hold."""
    kinds = plain_types(Settings.model_fields[name].annotation)
    if ... in kinds:
        items: st.SearchStrategy[Any] = UNFIT | st.just("") | st.integers() | st.none() | st.booleans()
        lists = st.lists(items, min_size=1, max_size=1) | st.just(["fit", " "])
        return FILLED_RECORDS | st.integers() | st.booleans() | UNFIT | lists
    if int in kinds:
        return RECORDS | st.lists(st.integers(), max_size=1) | st.booleans() | st.sampled_from(["x", "", 1.5, "1\0"])
    if bool in kinds:
        return RECORDS | st.lists(st.booleans(), max_size=1) | st.integers() | st.sampled_from(["x", "", 1.0])
    wrong = RECORDS | st.lists(st.just("a"), max_size=1) | st.booleans() | UNFIT
    return wrong if name == "akto_account_id" else wrong | st.integers()


WRONG = st.sampled_from(CHANGEABLE).flatmap(lambda name: st.tuples(st.just(name), wrong_values(name)))


def patch_options(config: Mapping[str, Any]) -> None:
    Options().source().patch_plugin(OPTIONS_ID, {"config": config})


def put_options(config: Mapping[str, Any]) -> None:
    Options().source().replace_plugin(OPTIONS_ID, {"name": "moesif", "config": config}, ())


def patch_instance(config: Mapping[str, Any]) -> None:
    Proxy(kong(ORDERS)).source.patch_plugin("p-orders", {"config": config})


def put_instance(config: Mapping[str, Any]) -> None:
    given = {"name": "moesif", "config": {"application_id": "x", **config}}
    Proxy(kong(ORDERS)).source.replace_plugin("p-orders", given, ())


def post_instance(config: Mapping[str, Any]) -> None:
    given = {"name": "moesif", "service": {"name": "quiet"}, "config": {"application_id": "x", **config}}
    Proxy(kong(ORDERS)).source.add_plugin(given)


def kong_file(config: Mapping[str, Any]) -> None:
    entry = {"name": "moesif", "config": {"application_id": "x", **config}}
    content = {"_format_version": "3.0", "plugins": [entry]}
    parse_declarative(json.dumps(content).encode(), "kong.json", partial(parse_instance, given={}))


def options(config: Mapping[str, Any]) -> None:
    parse_settings(config)


WAYS = (patch_options, put_options, patch_instance, put_instance, post_instance, kong_file, options)


def refusal(way: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]) -> str:
    with pytest.raises((SchemaViolation, SettingsError, KongConfigError)) as refused:
        way(config)
    if isinstance(refused.value, SchemaViolation):
        assert set(refused.value.fields) == {"config"}
        assert set(refused.value.fields["config"]) == set(config)
    return str(refused.value)


@pytest.mark.parametrize("way", WAYS)
@given(wrong=WRONG)
def test_what_can_never_be_right_is_refused_by_name(way: Callable[[Mapping[str, Any]], None], wrong: Any) -> None:
    name, value = wrong
    line = refusal(way, {name: value})
    assert name in line
    assert len(line.splitlines()) == 1
    if SecretStr in plain_types(Settings.model_fields[name].annotation):
        assert SECRET not in line


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", ["two words", "X-User: ", "X\u00fc", "\0", "X-A\r\nX-B: y", "(x)"])
def test_a_header_has_a_name_that_a_header_can_have(
    way: Callable[[Mapping[str, Any]], None], name: str, value: str
) -> None:
    assert name in refusal(way, {name: value})
    if name.endswith("masks"):
        assert name in refusal(way, {name: ["X-Good", value]})


@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_right_is_taken(way: Callable[[Mapping[str, Any]], None]) -> None:
    way(
        {
            "request_header_masks": ["X-A", "x_b!#$%&'*+-.^_`|~"],
            "request_body_masks": ["a, b", "c", "mot de passe", "\u540d\u524d"],
            "request_query_masks": [],
            "response_header_masks": "",
            "user_id_header": "X-User\n",
            "company_id_header": None,
            "batch_size": "5\n",
            "debug": "true",
            "flush_interval": 5.0,
        }
    )


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    settings = parse_settings(
        {"api_endpoint": "http://moesif.example\n", "user_id_header": " X-User ", "hooks": "a b "}
    )
    assert (settings.api_endpoint, settings.user_id_header, settings.hooks) == (
        "http://moesif.example",
        "X-User",
        "a b",
    )


@pytest.mark.parametrize("name", Settings.model_fields)
def test_octets_that_are_no_text_are_refused(name: str) -> None:
    """As they come from a command line or an environment in another encoding: no event could be written with them."""
    with pytest.raises(SettingsError, match=name):
        parse_settings({name: b"\xff".decode("utf-8", "surrogateescape")})


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if ... in plain_types(field.annotation)]
)
def test_an_empty_record_is_an_empty_list(name: str) -> None:
    """As Kong takes it: Lua has one empty table."""
    assert getattr(parse_settings({name: {}}), name) == getattr(parse_settings({name: []}), name)


@pytest.mark.parametrize("name", Settings.model_fields)
@pytest.mark.parametrize("wrong", [{"a": "b"}, [1], 1.5, math.nan, "\0"])
def test_what_is_wanted_is_told_in_words_that_are_no_programmers(name: str, wrong: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({name: wrong})
    assert not JARGON.search(str(refused.value))


def test_a_number_of_thousands_of_digits_is_too_large() -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({"batch_size": "9" * 5000})
    assert not JARGON.search(str(refused.value))


def test_null_in_kongs_file_is_what_is_not_given() -> None:
    kong_file({"batch_size": None, "request_body_masks": None, "user_id_header": None, "debug": None})
    with pytest.raises(KongConfigError, match="application_id is missing"):
        kong_file({"application_id": None})


@pytest.mark.parametrize("way", [patch_instance, put_instance, post_instance, kong_file])
@pytest.mark.parametrize(
    ("name", "value"),
    [("skip", "~m GET"), ("shutdown_timeout", 1), ("fast_dispatch", False), ("spool_dir", "/elsewhere"), ("recent", 5)],
)
def test_what_is_the_whole_proxys_is_refused_of_an_instance(
    way: Callable[[Mapping[str, Any]], None], name: str, value: object
) -> None:
    with pytest.raises((SchemaViolation, KongConfigError), match=name):
        way({name: value})


def test_an_instance_may_say_what_is_so_anyway() -> None:
    """As whoever puts back what the Admin API has shown."""
    config = {"skip": None, "shutdown_timeout": parse_settings({}).shutdown_timeout}
    patch_instance(config)
    kong_file(config)


def test_an_entry_is_switched_off_beside_its_config() -> None:
    assert "enabled: has no effect in config: set it next to config" in refusal(kong_file, {"enabled": False})


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("disable_moesif_payload_compression", "enable_compression"),
        ("enable_reading_send_event_response", "remove it"),
        ("enable_skip_gzip_payload_decompression", "disable_gzip_payload_decompression"),
        ("max_body_sime_limit", "request_max_body_size_limit"),
        ("max_body_size_limit", "response_max_body_size_limit"),
        ("max_events_sent_per_callback", "remove it"),
        ("sampling_percentage", "sample_rate"),
    ],
)
def test_what_only_earlier_plugins_had_is_refused_with_what_to_do_instead(name: str, instead: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: an earlier plugin's; .*{instead}"):
        parse_settings({name: 1})

"""The instances of Kong's configuration as plugin entities: shown, changed, added, taken away and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.kong_plugins import KongPluginSource
from mitmproxy_moesif.admin.redact import SHOWN
from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.admin.source import (
    ForeignKeyViolation,
    NotFound,
    NotKept,
    SchemaViolation,
    UniqueViolation,
    Unsupported,
)
from mitmproxy_moesif.admin.state import StateError, StateFile
from mitmproxy_moesif.capture.traffic import Traffic
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.kong.declarative import parse_declarative
from mitmproxy_moesif.kong.entities import KongConfig
from mitmproxy_moesif.kong.errors import OPTIONS_ID
from mitmproxy_moesif.kong.overlay import LiveOverlay
from mitmproxy_moesif.kong.resolver import Resolver

SECRET = "5ecre7-of-orders"

ORDERS = {
    "id": "p-orders",
    "name": "moesif",
    "instance_name": "of-orders",
    "service": "orders",
    "tags": ["team-a"],
    "config": {"application_id": SECRET, "api_version": "1"},
}
OFF = {"id": "p-off", "name": "moesif", "route": "list", "enabled": False, "config": {"batch_size": 0}}
AKTO = {
    "id": "p-akto",
    "name": "akto-api-discovery",
    "config": {"service_url": "http://akto:9091", "api_key": "akto-5ecre7", "timeout": 1},
}
GLOBAL = {"name": "moesif", "config": {"application_id": "g-5ecre7"}}

NO_RECORDS: tuple[Any, ...] = ("x", "", [], ["debug"], 0, False)
NO_TRAFFIC = Traffic().reading


def kong(*plugins: dict[str, Any], services: tuple[str, ...] = ("orders", "quiet")) -> KongConfig:
    routes = [{"id": "r-list", "name": "list", "paths": ["/orders"], "service": services[0]}]
    content = {
        "_format_version": "3.0",
        "services": [{"id": f"s-{name}", "name": name, "host": "h"} for name in services],
        "routes": routes,
        "consumers": [{"id": "c-ada", "username": "ada", "custom_id": "7"}],
        "plugins": list(plugins),
    }
    return parse_declarative(json.dumps(content).encode(), "kong.json")


class Proxy:
    """What is in force: as the proxy would, it makes each configuration ready and refuses what cannot be."""

    def __init__(self, base: KongConfig, **given: Any) -> None:
        self.given = given
        self.resolver = Resolver(base, given)
        self.taken = 0
        self.busy = False
        self.live = LiveOverlay(self._changed, self._settle, base)
        self.source: KongPluginSource | Operations = KongPluginSource(
            self.live, lambda: self.given, clock=lambda: 1_700_000_000.5
        )

    def _changed(self, config: KongConfig) -> None:
        self.resolver = Resolver(config, self.given)
        self.taken += 1

    def _settle(self) -> None:
        if self.busy:
            raise SettingsError("the proxy is too busy to take the change now")

    def account(self, plugin_id: str) -> str | None:
        instance = self.resolver.instances.get(plugin_id)
        return instance.settings.application_id.get_secret_value() if instance is not None else None

    def entity(self, plugin_id: str) -> dict[str, Any]:
        (found,) = (entity for entity in self.source.plugins() if entity["id"] == plugin_id)
        return dict(found)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy(kong(ORDERS, OFF, AKTO))


def refused(kind: type[Exception], call: Callable[[], object]) -> Any:
    with pytest.raises(kind) as raised:
        call()
    assert "5ecre7" not in str(raised.value)
    return raised.value


# --- what is shown -------------------------------------------------------------------------------------------------


def test_every_instance_is_shown_in_kongs_form(proxy: Proxy) -> None:
    entity = proxy.entity("p-orders")
    config = entity.pop("config")
    assert entity == {
        "id": "p-orders",
        "name": "moesif",
        "instance_name": "of-orders",
        "enabled": True,
        "service": {"id": "s-orders"},
        "route": None,
        "consumer": None,
        "protocols": ["grpc", "grpcs", "http", "https"],
        "tags": ["team-a"],
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_000,
    }
    assert (config["application_id"], config["api_version"], config["batch_size"]) == (SHOWN, "1", 50)
    assert [(plugin["id"], plugin["enabled"]) for plugin in proxy.source.plugins()] == [
        ("p-orders", True),
        ("p-off", False),
        ("p-akto", True),
    ]
    assert "5ecre7" not in json.dumps(proxy.source.plugins())


def test_what_is_shown_is_what_is_in_force() -> None:
    proxy = Proxy(kong(ORDERS), api_version="by-option")
    assert proxy.entity("p-orders")["config"]["api_version"] == "by-option"
    changed = proxy.source.patch_plugin("p-orders", {"config": {"api_version": "patched"}})
    assert changed["config"]["api_version"] == "patched"
    assert proxy.resolver.instances["p-orders"].settings.api_version == "patched"
    proxy.given = {"api_version": "another option", "debug": True}
    config = proxy.entity("p-orders")["config"]
    assert (config["api_version"], config["debug"]) == ("patched", True)


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("services", "orders", "s-orders"),
        ("services", "s-orders", "s-orders"),
        ("routes", "list", "r-list"),
        ("consumers", "ada", "c-ada"),
        ("consumers", "7", None),
        ("services", "list", None),
    ],
)
def test_entities_are_found_by_id_and_name(proxy: Proxy, kind: str, name: str, found: str | None) -> None:
    if found is None:
        refused(NotFound, lambda: proxy.source.find_entity(kind, name))
    else:
        assert proxy.source.find_entity(kind, name) == found


# --- what is changed -----------------------------------------------------------------------------------------------


def test_a_change_counts_at_once_and_is_answered_whole(proxy: Proxy) -> None:
    changes = {"config": {"application_id": "other-5ecre7", "batch_size": "7"}, "tags": "x"}
    entity = proxy.source.patch_plugin("p-orders", changes)
    assert entity == proxy.entity("p-orders")
    assert (entity["config"]["batch_size"], entity["config"]["application_id"], entity["tags"]) == (7, SHOWN, ["x"])
    assert (entity["config"]["api_version"], proxy.account("p-orders")) == ("1", "other-5ecre7")
    assert "5ecre7" not in repr(proxy.live.changes) + repr(proxy.live.config)
    proxy.source.patch_plugin("p-orders", {"enabled": "false"})
    assert (proxy.account("p-orders"), proxy.entity("p-orders")["enabled"]) == (None, False)
    proxy.source.patch_plugin("p-orders", {"enabled": True})
    assert proxy.account("p-orders") == "other-5ecre7"


def test_a_whole_entity_may_be_sent_back(proxy: Proxy) -> None:
    entity = json.loads(json.dumps(proxy.entity("p-orders")))
    del entity["config"]["application_id"]  # shown as ***: the listener leaves it out
    assert proxy.source.patch_plugin("p-orders", entity)["config"]["batch_size"] == 50
    assert proxy.taken == 0
    entity["config"]["batch_size"] = 9
    proxy.source.patch_plugin("p-orders", entity)
    assert proxy.live.changes.patches == {"p-orders": {"config": {"batch_size": 9}}}


@pytest.mark.parametrize(
    ("plugin_id", "changes", "fields"),
    [
        ("p-orders", {"foo": 1}, {"foo": "unknown field"}),
        ("p-orders", {"config": {"foo": 1}}, {"config": {"foo": "unknown field"}}),
        (
            "p-orders",
            {"config": {"sink_file": "x"}},
            {"config": {"sink_file": "can only be set with the options"}},
        ),
        ("p-orders", {"service": {"id": "s-quiet"}}, {"service": "immutable field cannot be updated"}),
        ("p-orders", {"config": {"application_id": None}}, {"config": {"application_id": "required field missing"}}),
        ("p-orders", {"tags": {"a": 1}}, {"tags": "expected a set"}),
        *(("p-orders", {"config": wrong}, {"config": "expected a record"}) for wrong in NO_RECORDS),
        ("p-orders", {"config": None, "enabled": None}, dict.fromkeys(("config", "enabled"), "required field missing")),
        ("p-orders", {"tags": [""]}, {"tags": "length must be at least 1"}),
        ("p-orders", {"tags": False}, {"tags": "expected a set"}),
        ("p-orders", {"consumer": []}, {"consumer": "expected a record"}),
        ("p-akto", {"config": []}, {"config": "expected a record"}),
    ],
)
def test_a_wrong_change_is_none(proxy: Proxy, plugin_id: str, changes: dict[str, Any], fields: dict[str, Any]) -> None:
    before = proxy.source.plugins()
    error = refused(SchemaViolation, lambda: proxy.source.patch_plugin(plugin_id, changes))
    assert error.fields == fields
    assert (proxy.taken, proxy.source.plugins()) == (0, before)


def test_a_disabled_instance_that_cannot_be_is_mended_first(proxy: Proxy) -> None:
    error = refused(SchemaViolation, lambda: proxy.source.patch_plugin("p-off", {"enabled": True}))
    assert set(error.fields["config"]) == {"batch_size"}
    mended = {"enabled": "true", "config": {"batch_size": "5", "application_id": "new-5ecre7"}}
    assert proxy.source.patch_plugin("p-off", mended)["enabled"] is True
    assert proxy.account("p-off") == "new-5ecre7"


def test_a_disabled_one_whose_scope_is_taken_stays_so() -> None:
    other = {**ORDERS, "id": "p-2", "instance_name": "second", "enabled": False}
    proxy = Proxy(kong(ORDERS, other))
    error = refused(UniqueViolation, lambda: proxy.source.patch_plugin("p-2", {"enabled": True}))
    assert error.fields == {"consumer": None, "name": "moesif", "route": None, "service": {"id": "s-orders"}}
    assert (proxy.taken, proxy.entity("p-2")["enabled"]) == (0, False)


def test_what_is_not_there_cannot_be_changed(proxy: Proxy) -> None:
    refused(NotFound, lambda: proxy.source.patch_plugin("p-none", {"enabled": False}))


# --- Akto's --------------------------------------------------------------------------------------------------------


def akto_url(proxy: Proxy, path: str) -> str | None:
    """Where records of a GET of this path go."""
    match = proxy.resolver.scopes.router.match("GET", path, "h", {}, "http", None, "127.0.0.1")
    on = (match.route, match.service, None) if match is not None else (None, None, None)
    made = proxy.resolver._with_akto(None, on)
    return made.akto.url if made is not None and made.akto is not None else None


def test_an_instance_of_akto_has_its_own_parameters(proxy: Proxy) -> None:
    assert proxy.entity("p-akto")["config"] == {
        "service_url": "http://akto:9091",
        "timeout": 1,
        "log_level": "warn",
        "api_key": SHOWN,
        "account_id": "1000000",
        "kafka_brokers": [],
        "kafka_topic": "akto.api.logs",
        "transport": "http",
    }
    changed = proxy.source.patch_plugin("p-akto", {"config": {"service_url": "http://other:9091"}})
    assert changed["config"]["service_url"] == "http://other:9091"
    assert akto_url(proxy, "/x") == "http://other:9091"
    proxy.source.patch_plugin("p-akto", {"enabled": False})
    assert akto_url(proxy, "/x") is None


def test_an_instance_of_akto_is_added_beside_one_of_moesif_on_a_service(proxy: Proxy) -> None:
    wanted = {"name": "akto-api-discovery", "service": {"name": "orders"}, "config": {"service_url": "http://new:9091"}}
    added = proxy.source.add_plugin(wanted)
    assert (added["name"], added["service"]) == ("akto-api-discovery", {"id": "s-orders"})
    assert (akto_url(proxy, "/orders"), akto_url(proxy, "/x")) == ("http://new:9091", "http://akto:9091")
    error = refused(UniqueViolation, lambda: proxy.source.add_plugin(wanted))
    assert error.fields["name"] == "akto-api-discovery"
    replaced = proxy.source.replace_plugin(
        added["id"], {**wanted, "config": {"service_url": "http://third:9091", "log_level": "info"}}, ()
    )
    assert (replaced["id"], replaced["config"]["log_level"]) == (added["id"], "info")
    proxy.source.remove_plugin(added["id"])
    assert akto_url(proxy, "/orders") == "http://akto:9091"


def test_what_is_wrong_with_an_instance_of_akto_is_told_by_its_own_names(proxy: Proxy) -> None:
    def fault(config: dict[str, Any]) -> Any:
        wanted = {"name": "akto-api-discovery", "service": {"name": "quiet"}, "config": config}
        return refused(SchemaViolation, lambda: proxy.source.add_plugin(wanted)).fields["config"]

    assert fault({}) == {"service_url": "required field missing"}
    assert fault({"service_url": "http://h", "batch_size": 1}) == {"batch_size": "unknown field"}
    assert "must be an http or https URL" in fault({"service_url": "akto:9091"})["service_url"]
    assert "should be 'debug', 'info'" in fault({"service_url": "http://h", "log_level": "x"})["log_level"]


def test_added_instances_of_akto_are_kept_across_a_restart(tmp_path: Path) -> None:
    proxy = Proxy(kong(ORDERS))
    wanted = {"name": "akto-api-discovery", "config": {"service_url": "http://new:9091"}}
    added = proxy.source.add_plugin(wanted)
    document = json.loads(json.dumps(proxy.source.document()))
    again = Proxy(kong(ORDERS))
    again.source.take(document)
    assert [plugin for plugin in again.source.plugins() if plugin["id"] == added["id"]] == [added]
    assert akto_url(again, "/x") == "http://new:9091"


def test_a_proxy_too_busy_keeps_what_it_had(proxy: Proxy) -> None:
    proxy.busy = True
    error = refused(SchemaViolation, lambda: proxy.source.patch_plugin("p-orders", {"config": {"debug": True}}))
    assert "too busy" in str(error)
    assert proxy.taken == 2, "the former configuration was handed over after it"
    assert proxy.resolver.instances["p-orders"].settings.debug is False
    assert proxy.entity("p-orders")["config"]["debug"] is False


@given(
    st.dictionaries(
        st.sampled_from(["debug", "batch_size", "api_version", "trusted_ips", "sample_rate", "nothing"]),
        st.none() | st.booleans() | st.integers(-5, 2000) | st.text(max_size=6) | st.lists(st.text(max_size=4)),
        max_size=3,
    )
)
def test_a_change_is_taken_whole_or_refused_by_name(config: dict[str, Any]) -> None:
    proxy = Proxy(kong(ORDERS))
    before = proxy.source.plugins()
    outcome = attempt(proxy, config)
    if isinstance(outcome, SchemaViolation):
        assert set(outcome.fields["config"]) <= set(config)
        assert (proxy.taken, proxy.source.plugins()) == (0, before)
    else:
        taken = proxy.taken
        assert attempt(proxy, config) == outcome, "the same change again is none"
        assert proxy.taken == taken <= 1


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10)
    | st.sampled_from(["", "\0", "a\r\nb", "moesif", "akto-api-discovery", "orders", "http", "of-orders", 1.5]),
    lambda inside: (
        st.lists(inside, max_size=2) | st.dictionaries(st.sampled_from(["id", "name", ""]), inside, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = (
    *("id", "name", "instance_name", "enabled", "config", "service", "route", "consumer", "consumer_group"),
    *("protocols", "tags", "created_at", "updated_at", "nothing"),
)


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4), st.sampled_from(["patch", "put", "post"]))
def test_whatever_an_entity_is_it_is_taken_or_refused_in_kongs_form(entity: dict[str, Any], how: str) -> None:
    proxy = Proxy(kong(ORDERS, OFF, AKTO))
    before = proxy.source.plugins()
    try:
        if how == "patch":
            taken = proxy.source.patch_plugin("p-orders", entity)
        elif how == "put":
            taken = proxy.source.replace_plugin("p-orders", {"name": "moesif", **entity}, ())
        else:
            taken = proxy.source.add_plugin({**GLOBAL, **entity})
    except (SchemaViolation, UniqueViolation, ForeignKeyViolation) as error:
        json.dumps(error.fields)
        assert proxy.source.plugins() == before
    else:
        assert "\0" not in json.dumps(taken)
        assert isinstance(entity.get("config", {}), dict)
        assert isinstance(entity.get("tags") or [], list | str)
        assert proxy.source.patch_plugin(str(taken["id"]), entity) == taken, "the same again is none"


def attempt(proxy: Proxy, config: dict[str, Any]) -> Mapping[str, Any] | SchemaViolation:
    try:
        return proxy.source.patch_plugin("p-orders", {"config": config})
    except SchemaViolation as error:
        return error


# --- another version of the configuration --------------------------------------------------------------------------


def test_a_change_outlives_a_new_version_as_long_as_its_entry(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.source.patch_plugin("p-orders", {"config": {"api_version": "patched", "application_id": "other-5ecre7"}})
    newer = {**ORDERS, "config": {"application_id": SECRET, "api_version": "2", "batch_size": 3}}
    proxy.live.replaced(kong(newer))
    config = proxy.entity("p-orders")["config"]
    assert (config["api_version"], config["batch_size"], proxy.account("p-orders")) == ("patched", 3, "other-5ecre7")
    proxy.live.replaced(kong(GLOBAL))
    assert "'p-orders' no longer exists; its changes are lost" in caplog.text
    proxy.live.replaced(kong(ORDERS))
    assert (proxy.entity("p-orders")["config"]["api_version"], proxy.account("p-orders")) == ("1", SECRET)


def test_a_version_that_is_refused_leaves_all_as_it_was(proxy: Proxy) -> None:
    proxy.source.patch_plugin("p-orders", {"config": {"api_version": "patched"}})
    before = proxy.source.plugins()
    wrong = kong({**ORDERS, "config": {"batch_sise": 1}})
    refused(SettingsError, lambda: proxy.live.replaced(wrong))
    assert proxy.source.plugins() == before


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (kong(ORDERS, services=("orders",)), "there is no service 's-quiet' any more"),
        (kong(ORDERS, {**GLOBAL, "service": "quiet"}), "has a plugin of the same scope"),
        (kong(ORDERS, {**GLOBAL, "instance_name": "mine"}), "has a plugin of the same name"),
    ],
)
def test_an_added_instance_yields_to_the_configuration(
    proxy: Proxy, version: KongConfig, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    added = {**GLOBAL, "instance_name": "mine", "service": {"name": "quiet"}}
    plugin_id = proxy.source.add_plugin(added)["id"]
    proxy.live.replaced(kong(ORDERS, {**GLOBAL, "id": "g"}))
    assert proxy.account(plugin_id) == "g-5ecre7"
    proxy.live.replaced(version)
    assert plugin_id not in proxy.resolver.instances
    assert why in caplog.text


# --- what is added -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "ids"),
    [
        ({"service": {"name": "quiet"}}, ("s-quiet", None, None)),
        ({"service": {"id": "s-quiet"}, "consumer": {"username": "ada"}}, ("s-quiet", None, "c-ada")),
        ({"consumer": {"custom_id": "7"}}, (None, None, "c-ada")),
        ({"route": {"id": "r-list"}, "service": None, "consumer": {"id": "c-ada"}}, (None, "r-list", "c-ada")),
        ({}, (None, None, None)),
    ],
)
def test_an_instance_is_added_for_what_it_names(
    proxy: Proxy, scope: dict[str, Any], ids: tuple[str | None, ...]
) -> None:
    config = {"application_id": "new-5ecre7", "debug": "true"}
    entity = proxy.source.add_plugin({"name": "moesif", "config": config, "tags": "t", **scope})
    assert entity == proxy.entity(entity["id"])
    shown = tuple(entity[name] and entity[name]["id"] for name in ("service", "route", "consumer"))
    assert (shown, entity["enabled"], entity["config"]["debug"], entity["tags"]) == (ids, True, True, ["t"])
    assert (entity["created_at"], proxy.account(entity["id"])) == (1_700_000_000, "new-5ecre7")
    again = refused(UniqueViolation, lambda: proxy.source.add_plugin({**GLOBAL, **scope}))
    assert str(again).startswith("UNIQUE violation detected on '{consumer=")
    changed = proxy.source.patch_plugin(entity["id"], {"config": {"debug": False}})
    assert (changed["config"]["debug"], proxy.account(entity["id"])) == (False, "new-5ecre7")
    assert Proxy(proxy.live.base).source.add_plugin({**GLOBAL, **scope})["id"] == entity["id"], "so in every worker"
    proxy.source.remove_plugin(entity["id"])
    assert [plugin["id"] for plugin in proxy.source.plugins()] == ["p-orders", "p-off", "p-akto"]
    assert proxy.account(entity["id"]) is None


@pytest.mark.parametrize(
    ("given_fields", "kind", "fields"),
    [
        ({"service": {"name": "no"}}, ForeignKeyViolation, None),
        ({"service": {"id": "s-no"}}, ForeignKeyViolation, {"service": {"id": "s-no"}}),
        ({"route": {"name": "orders"}}, ForeignKeyViolation, None),
        ({"service": "orders"}, SchemaViolation, {"service": "expected a record"}),
        ({"service": {"nam": "x"}}, SchemaViolation, {"service": {"nam": "unknown field"}}),
        ({"service": {"name": "orders"}}, UniqueViolation, None),
        ({"route": {"name": "list"}}, UniqueViolation, None),
        ({"instance_name": "of-orders"}, UniqueViolation, {"instance_name": "of-orders"}),
        ({"instance_name": "moesif"}, UniqueViolation, {"instance_name": "moesif"}),
        ({"name": "key-auth"}, SchemaViolation, None),
        ({"foo": 1}, SchemaViolation, {"foo": "unknown field"}),
        ({"id": "p-orders"}, SchemaViolation, {"id": "expected a valid UUID"}),
        ({"protocols": "smtp"}, SchemaViolation, None),
        ({"instance_name": 5}, SchemaViolation, {"instance_name": "expected a string"}),
        ({"config": {}}, SchemaViolation, {"config": {"application_id": "required field missing"}}),
        ({"config": {"application_id": "x-5ecre7", "hooks": "x.py"}}, SchemaViolation, None),
    ],
)
def test_an_instance_that_cannot_be(
    proxy: Proxy, given_fields: dict[str, Any], kind: type[Exception], fields: dict[str, Any] | None
) -> None:
    before = proxy.source.plugins()
    error = refused(kind, lambda: proxy.source.add_plugin({**GLOBAL, **given_fields}))
    if fields is not None:
        assert error.fields == fields
    assert (proxy.taken, proxy.source.plugins()) == (0, before)


def test_what_the_configuration_has_is_not_deleted(proxy: Proxy) -> None:
    error = refused(Unsupported, lambda: proxy.source.remove_plugin("p-orders"))
    assert "PATCH enabled=false" in str(error)
    refused(NotFound, lambda: proxy.source.remove_plugin("p-none"))
    assert proxy.taken == 0


def test_beside_an_added_instance_the_options_stay_the_global_one() -> None:
    proxy = Proxy(kong(AKTO), application_id="options-5ecre7")
    assert [plugin["id"] for plugin in proxy.resolver.describe()["instances"]] == ["p-akto", OPTIONS_ID]
    added = proxy.source.add_plugin({"name": "moesif", "service": {"name": "orders"}})["id"]
    assert not proxy.resolver.has_instances
    assert proxy.account(added) == "options-5ecre7"
    on = proxy.resolver.scopes.explain("GET", "h", "/orders")
    assert (on["instance"]["id"], on["why"]) == (added, 'service "orders" (more specific than: global)')
    assert proxy.resolver.scopes.explain("GET", "h", "/x")["instance"] == {"id": OPTIONS_ID, "instance_name": "moesif"}
    shown = {plugin["id"]: plugin["admin_api"] for plugin in proxy.resolver.describe()["instances"]}
    assert shown == {"p-akto": None, added: "created", OPTIONS_ID: None}


# --- what is kept --------------------------------------------------------------------------------------------------


def restarted(path: Path, base: KongConfig, **given: Any) -> Proxy:
    """With all that the listener asks, and a file that keeps changes."""
    proxy = Proxy(base, **given)
    settings = parse_settings({**given, "admin_state": str(path)})
    proxy.source = Operations(
        cast(Any, None),
        lambda: settings,
        cast(Any, lambda _: None),
        lambda: proxy.resolver,
        lambda: given,
        NO_TRAFFIC,
    )
    proxy.source.restore(StateFile(path))
    proxy.source.follow(proxy.live)
    return proxy


def test_changes_are_kept_across_restarts_but_for_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.json"
    proxy = restarted(path, kong(ORDERS), application_id="options-5ecre7")
    proxy.source.patch_plugin("p-orders", {"config": {"application_id": "other-5ecre7", "debug": True}, "tags": ["x"]})
    added = {"name": "moesif", "instance_name": "mine", "config": {"batch_size": 3}}
    plain = proxy.source.add_plugin({**added, "service": {"name": "quiet"}})
    own = proxy.source.add_plugin({**GLOBAL, "consumer": {"username": "ada"}})
    gone = proxy.source.add_plugin({"name": "moesif", "route": {"name": "list"}})["id"]
    proxy.source.remove_plugin(gone)
    assert "5ecre7" not in path.read_text()

    proxy = restarted(
        path, kong({**ORDERS, "config": {"application_id": SECRET, "api_version": "2"}}), application_id="o"
    )
    patched = proxy.entity("p-orders")
    assert (patched["config"]["debug"], patched["config"]["api_version"], patched["tags"]) == (True, "2", ["x"])
    assert "the change of application_id was not saved" in caplog.text
    assert proxy.entity(plain["id"]) == {**plain, "config": {**plain["config"], "application_id": SHOWN}}
    # Nothing may go to another account than the one it was for.
    assert (proxy.account(own["id"]), proxy.entity(own["id"])["enabled"]) == (None, False)
    assert "it stays disabled until a PATCH gives config.application_id" in caplog.text
    proxy.source.patch_plugin(own["id"], {"enabled": "true", "config": {"application_id": "g-5ecre7"}})
    assert proxy.account(own["id"]) == "g-5ecre7"
    assert gone not in proxy.resolver.instances


def test_what_has_lost_its_place_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.json"
    proxy = restarted(path, kong(ORDERS))
    proxy.source.patch_plugin("p-orders", {"config": {"debug": True}})
    proxy.source.add_plugin({**GLOBAL, "service": {"name": "quiet"}})
    proxy = restarted(path, kong(GLOBAL, services=("orders",)))
    assert len(proxy.resolver.instances) == 1
    assert "plugin 'p-orders' no longer exists" in caplog.text
    assert "there is no service 's-quiet' any more" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        {"plugins": {"p-orders": {"config": {"batch_size": 0}}}},
        {"plugins": {"p-orders": {"config": {"hooks": "x.py"}}}},
        {"created": {"x": {"config": {"application_id": "a", "debug": 5}}}},
        {"created": {"x": {"tags": 5, "config": {}}}},
    ],
)
def test_a_file_that_holds_what_cannot_be(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(content))
    with pytest.raises(StateError, match=f"^admin_state: {path}: "):
        restarted(path, kong(ORDERS))


def test_a_file_that_cannot_be_written_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    proxy = restarted(tmp_path / "none" / "s", kong(ORDERS))
    (tmp_path / "none").rmdir()
    error = refused(NotKept, lambda: proxy.source.patch_plugin("p-orders", {"config": {"debug": True}}))
    assert "nothing was changed" in str(error)
    assert proxy.entity("p-orders")["config"]["debug"] is False
    assert not proxy.resolver.instances["p-orders"].settings.debug


def test_a_document_brings_another_proxy_to_the_same(tmp_path: Path) -> None:
    first, second = (restarted(tmp_path / name, kong(ORDERS)) for name in ("first", "second"))
    assert isinstance(first.source, Operations)
    assert isinstance(second.source, Operations)
    first.source.patch_plugin("p-orders", {"config": {"application_id": "other-5ecre7", "debug": True}})
    own = first.source.add_plugin({**GLOBAL, "consumer": {"username": "ada"}})["id"]
    before = second.source.document()
    second.source.take(json.loads(json.dumps(first.source.document())))
    assert second.source.document() == first.source.document()
    assert (second.account("p-orders"), second.account(own)) == ("other-5ecre7", "g-5ecre7")
    second.source.take(before)
    assert (second.account("p-orders"), second.account(own)) == (SECRET, None)


# --- what is replaced ----------------------------------------------------------------------------------------------

NEW = "0a0a0a0a-0000-4000-8000-000000000001"


def test_a_replaced_instance_of_the_file_is_as_configured_but_for_what_is_given(proxy: Proxy) -> None:
    proxy.source.patch_plugin("p-orders", {"config": {"debug": True, "application_id": "other-5ecre7"}, "tags": ["x"]})
    given = {"name": "moesif", "config": {"batch_size": 7}}
    entity = proxy.source.replace_plugin("p-orders", given, {"application_id"})
    assert (entity["config"]["batch_size"], entity["config"]["debug"], entity["tags"]) == (7, False, ["team-a"])
    assert proxy.account("p-orders") == "other-5ecre7", "what was sent back as it was shown is left alone"
    proxy.source.replace_plugin("p-orders", {"name": "moesif"}, ())
    assert proxy.account("p-orders") == SECRET
    assert cast(KongPluginSource, proxy.source).document()["plugins"] == {}


def test_a_replaced_instance_that_was_added_is_what_is_given(proxy: Proxy) -> None:
    config = {"application_id": "q-5ecre7", "debug": True}
    given = {"id": NEW, "name": "moesif", "service": {"name": "quiet"}, "config": config, "tags": ["a"]}
    added = proxy.source.add_plugin(given)
    assert (added["id"], added["service"]) == (NEW, {"id": "s-quiet"})
    moved = {"name": "moesif", "service": {"name": "quiet"}, "route": {"name": "list"}, "config": {"batch_size": 9}}
    entity = proxy.source.replace_plugin(NEW, moved, {"application_id"})
    assert (entity["route"], entity["config"]["debug"], entity["tags"]) == ({"id": "r-list"}, False, None)
    assert (entity["created_at"], proxy.account(NEW)) == (added["created_at"], "q-5ecre7")
    refused(
        UniqueViolation,
        lambda: proxy.source.replace_plugin(
            NEW, {**moved, "service": {"name": "orders"}, "route": None}, {"application_id"}
        ),
    )
    refused(SchemaViolation, lambda: proxy.source.replace_plugin(NEW, {"config": {}}, ()))
    proxy.source.remove_plugin(NEW)
    assert NEW not in [plugin["id"] for plugin in proxy.source.plugins()]


def test_what_cannot_be_replaced(proxy: Proxy) -> None:
    refused(NotFound, lambda: proxy.source.replace_plugin("none", {"name": "moesif"}, ()))
    refused(SchemaViolation, lambda: proxy.source.replace_plugin("p-akto", {"name": "moesif"}, ()))
    refused(
        SchemaViolation, lambda: proxy.source.replace_plugin("p-orders", {"name": "moesif", "service": {"id": "x"}}, ())
    )


def test_the_entities_of_kongs_configuration_are_listed(proxy: Proxy) -> None:
    names = {
        kind: [entity.id for entity in proxy.source.list_entities(kind)] for kind in ("services", "routes", "consumers")
    }
    assert names == {"services": ["s-orders", "s-quiet"], "routes": ["r-list"], "consumers": ["c-ada"]}


def test_an_instance_for_a_group_shows_it() -> None:
    content = {
        "_format_version": "3.0",
        "consumer_groups": [{"id": "g-gold", "name": "gold"}],
        "consumers": [{"username": "ada", "groups": [{"name": "gold"}]}],
        "plugins": [{"id": "p-gold", "name": "moesif", "consumer_group": "gold", "config": {"application_id": SECRET}}],
    }
    proxy = Proxy(parse_declarative(json.dumps(content).encode(), "kong.json"))
    assert proxy.entity("p-gold")["consumer_group"] == {"id": "g-gold"}
    (told,) = proxy.resolver.describe()["instances"]
    assert told["consumer_group"] == "g-gold"
    proxy.source.patch_plugin("p-gold", {"config": {"debug": True}})
    assert proxy.entity("p-gold")["consumer_group"] == {"id": "g-gold"}

"""The options as one plugin instance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.local_plugins import LocalPluginSource
from mitmproxy_moesif.admin.parameters import FIXED
from mitmproxy_moesif.admin.redact import SHOWN
from mitmproxy_moesif.admin.server import admin_server
from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.admin.source import NotFound, NotKept, SchemaViolation, UniqueViolation, Unsupported
from mitmproxy_moesif.admin.state import StateError, StateFile
from mitmproxy_moesif.capture.traffic import Traffic
from mitmproxy_moesif.config.settings import AS_STARTED, SECRETS, Settings, SettingsError, parse_settings
from mitmproxy_moesif.kong.errors import OPTIONS_ID
from tests.admin.sources import FakeSource

SECRET = "5ecre7-application-id"

NO_TRAFFIC = Traffic().reading


class Options:
    """The proxy's options: what was given, and every set of changes that arrived."""

    def __init__(self, **given: Any) -> None:
        self.given: dict[str, Any] = {"application_id": SECRET, **given}
        self.started = self.given
        self.applied: list[dict[str, Any]] = []
        self.refusal: str | None = None

    def read(self) -> Settings:
        return parse_settings(self.given)

    def apply(self, changes: dict[str, Any]) -> None:
        if self.refusal is not None:
            raise SettingsError(self.refusal)
        self.applied.append(changes)
        given = {**self.given, **changes}
        gone = {name for name in given if given[name] is AS_STARTED}
        self.given = {name: self.started.get(name) if name in gone else given[name] for name in given}
        self.given = {name: value for name, value in self.given.items() if name in self.started or name not in gone}

    def source(self) -> LocalPluginSource:
        return LocalPluginSource(self.read, self.apply, clock=lambda: 1_700_000_000.5)

    def kept_in(self, path: Path | None) -> Operations:
        """All that the listener asks, with a file that keeps changes."""
        operations = Operations(
            cast(Any, None), self.read, cast(Any, self.apply), lambda: None, lambda: self.given, NO_TRAFFIC
        )
        operations.restore(StateFile(path))
        return operations


def faults(source: LocalPluginSource, changes: Mapping[str, Any]) -> Any:
    with pytest.raises(SchemaViolation) as raised:
        source.patch_plugin(OPTIONS_ID, changes)
    assert SECRET not in str(raised.value)
    return raised.value.fields


# --- what is shown -------------------------------------------------------------------------------------------------


def test_the_entity_has_kongs_fields_and_all_parameters() -> None:
    (entity,) = Options(debug=True, request_header_masks="A,b").source().plugins()
    config = entity.pop("config")
    assert entity == {
        "id": OPTIONS_ID,
        "name": "moesif",
        "instance_name": "moesif",
        "enabled": True,
        "service": None,
        "route": None,
        "consumer": None,
        "protocols": ["grpc", "grpcs", "http", "https"],
        "tags": None,
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_000,
    }
    shown = {name for name in Settings.model_fields if name != "enabled" and not name.startswith("admin_")}
    assert config.keys() == shown
    assert (config["debug"], config["batch_size"], config["user_id_header"]) == (True, 50, None)
    assert config["request_header_masks"] == ["a", "b"]
    assert config["application_id"] == SHOWN
    json.dumps(config)


def test_no_secret_is_shown_and_none_is_not_made_up() -> None:
    assert SECRET not in json.dumps(Options().source().plugins())
    config = Options(application_id="", sink_file="f").source().plugins()[0]["config"]
    assert {config[name] for name in SECRETS if name in config} == {None}


# --- what is changed -----------------------------------------------------------------------------------------------


def test_a_change_from_a_form_arrives_typed() -> None:
    options = Options()
    changes = {"enabled": "false", "config": {"debug": "true", "batch_size": "7", "request_query_masks": "a, b"}}
    entity = options.source().patch_plugin(OPTIONS_ID, changes)
    assert options.applied == [{"debug": True, "batch_size": 7, "request_query_masks": ["a", "b"], "enabled": False}]
    assert (entity["enabled"], entity["config"]["batch_size"]) == (False, 7)


def test_null_is_the_default_again() -> None:
    options = Options(debug=True, user_id_header="x-user", request_body_masks=["a"], batch_size=3)
    names = ("debug", "user_id_header", "request_body_masks", "batch_size")
    options.source().patch_plugin(OPTIONS_ID, {"config": dict.fromkeys(names)})
    assert options.applied == [{"debug": False, "user_id_header": None, "request_body_masks": [], "batch_size": 50}]


def test_the_application_id_is_changed_and_not_told() -> None:
    options = Options()
    entity = options.source().patch_plugin(OPTIONS_ID, {"config": {"application_id": "other-5ecre7"}})
    assert options.applied == [{"application_id": "other-5ecre7"}]
    assert entity["config"]["application_id"] == SHOWN


def test_a_whole_entity_may_be_sent_back() -> None:
    options = Options(sink_file="events.ndjson")
    source = options.source()
    entity = json.loads(json.dumps(source.plugins()[0]))
    del entity["config"]["application_id"]  # shown as ***: the listener leaves it out
    assert source.patch_plugin(OPTIONS_ID, entity)["config"]["batch_size"] == 50
    assert options.applied == []
    entity["config"]["batch_size"] = 9
    source.patch_plugin(OPTIONS_ID, entity)
    assert options.applied == [{"batch_size": 9}]


def test_the_time_of_the_last_change() -> None:
    now = 100.0
    options = Options()
    source = LocalPluginSource(options.read, options.apply, clock=lambda: now)
    now = 200.0
    assert source.patch_plugin(OPTIONS_ID, {})["updated_at"] == 100
    entity = source.patch_plugin(OPTIONS_ID, {"config": {"debug": True}})
    assert (entity["created_at"], entity["updated_at"]) == (100, 200)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"foo": "bar"}, {"foo": "unknown field"}),
        ({"config": {"foo": 1, "enabled": True}}, {"config": {"foo": "unknown field", "enabled": "unknown field"}}),
        ({"config": {"admin_token": "x"}}, {"config": {"admin_token": "unknown field"}}),
        *(({"config": wrong}, {"config": "expected a record"}) for wrong in ("x", "", [], ["debug"], 0, False)),
        ({"config": None}, {"config": "required field missing"}),
        ({"enabled": None}, {"enabled": "required field missing"}),
        (
            {"tags": 0, "service": [], "id": 5},
            {"tags": "expected a set", "service": "expected a record", "id": "expected a string"},
        ),
        ({"created_at": "yesterday"}, {"created_at": "expected an integer"}),
        ({"name": "other"}, {"name": "immutable field cannot be updated"}),
        ({"service": {"id": "s"}}, {"service": "immutable field cannot be updated"}),
        (
            {"config": {"sink_file": "/etc/x"}},
            {"config": {"sink_file": "can only be set with the options"}},
        ),
    ],
)
def test_what_cannot_be_changed(changes: dict[str, Any], fields: dict[str, Any]) -> None:
    options = Options()
    assert faults(options.source(), changes) == fields
    assert options.applied == []


def test_no_client_names_a_file() -> None:
    """Code is run from some, and others are written."""
    named = {
        name
        for name, field in Settings.model_fields.items()
        if re.search(r"\b(file|folder|path)\b", field.description or "", re.IGNORECASE)
    }
    assert {"hooks", "sink_file", "spool_dir"} & Settings.model_fields.keys() <= named
    assert {name for name in named if not name.startswith("admin_")} <= FIXED


def test_values_out_of_range_are_told_all_at_once() -> None:
    options = Options()
    changes = {
        "enabled": "perhaps",
        "config": {"batch_size": "0", "debug": "x; debug: y", "nothing": 1, "flush_interval": 1},
    }
    found = faults(options.source(), changes)
    assert found["config"].keys() == {"batch_size", "debug", "nothing"}
    assert found["config"]["batch_size"].endswith("'0' was given")
    assert "must be true or false" in found["enabled"]
    assert options.applied == []


def test_what_the_proxy_refuses_is_told_by_field() -> None:
    options = Options()
    source = options.source()
    options.refusal = "debug: not now; application_id is missing: give one"
    assert faults(source, {"config": {"debug": True}}) == {
        "config": {"debug": "not now; application_id is missing: give one"}
    }
    options.refusal = "something else"
    assert faults(source, {"config": {"debug": True}}) == {"@entity": ["something else"]}
    assert source.plugins()[0]["config"]["debug"] is False


CHANGEABLE = sorted(Settings.model_fields.keys() - FIXED - {"enabled"})


@given(
    st.dictionaries(
        st.sampled_from([*CHANGEABLE, "nothing"]),
        st.none() | st.booleans() | st.integers(-5, 2**60) | st.text(max_size=8) | st.lists(st.text(max_size=4)),
        max_size=3,
    )
)
def test_a_change_is_taken_whole_or_refused_by_name(config: dict[str, Any]) -> None:
    options = Options()
    source = options.source()
    before = source.plugins()
    outcome = attempt(source, config)
    if isinstance(outcome, SchemaViolation):
        assert set(outcome.fields) == {"config"}
        assert set(outcome.fields["config"]) <= set(config)
        assert options.applied == []
        assert source.plugins() == before
    else:
        assert attempt(source, config) == outcome, "the same change again is none"
        assert len(options.applied) <= 1


def attempt(source: LocalPluginSource, config: dict[str, Any]) -> dict[str, Any] | SchemaViolation:
    try:
        return source.patch_plugin(OPTIONS_ID, {"config": config})
    except SchemaViolation as error:
        return error


def test_another_id_is_not_there() -> None:
    with pytest.raises(NotFound):
        Options().source().patch_plugin("other", {})


# --- a second instance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_fields", "fields"),
    [
        ({}, {"name": "required field missing"}),
        ({"name": ["moesif"]}, {"name": "expected a string"}),
        ({"name": "moesif", "config": []}, {"config": "expected a record"}),
        (
            {"name": "key-auth"},
            {"name": "plugin 'key-auth' not enabled; add it to the 'plugins' configuration property"},
        ),
        ({"name": "moesif", "foo": 1}, {"foo": "unknown field"}),
        ({"name": "moesif", "config": {"foo": 1}}, {"config": {"foo": "unknown field"}}),
    ],
)
def test_an_instance_that_cannot_be(given_fields: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(SchemaViolation) as raised:
        Options().source().add_plugin(given_fields)
    assert raised.value.fields == fields


def test_a_second_global_instance() -> None:
    options = Options()
    with pytest.raises(UniqueViolation, match=r"^UNIQUE violation detected on '\{consumer=null,name=\"moesif\",route="):
        options.source().add_plugin({"name": "moesif", "config": {"application_id": "x", "debug": "true"}})
    assert options.applied == []


def test_the_options_are_not_deleted() -> None:
    options = Options()
    with pytest.raises(Unsupported, match="PATCH enabled=false instead"):
        options.source().remove_plugin(OPTIONS_ID)
    with pytest.raises(NotFound):
        options.source().remove_plugin("other")


# --- what is kept --------------------------------------------------------------------------------------------------


def test_changes_are_kept_across_restarts_but_for_secrets(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    options = Options()
    source = options.kept_in(path)
    assert options.applied == []
    source.patch_plugin(OPTIONS_ID, {"enabled": False, "config": {"debug": "true", "application_id": "other-5ecre7"}})
    source.patch_plugin(OPTIONS_ID, {"config": {"request_query_masks": ["a"], "batch_size": 5}})
    source.patch_plugin(OPTIONS_ID, {"config": {"batch_size": None}})
    assert "5ecre7" not in path.read_text()
    again = Options(debug=True)
    again.kept_in(path)
    assert again.applied == [{"debug": True, "request_query_masks": ["a"], "enabled": False, "batch_size": 50}]


def test_without_a_file_nothing_is_kept() -> None:
    Options().kept_in(None).patch_plugin(OPTIONS_ID, {"config": {"debug": True}})
    again = Options()
    again.kept_in(None)
    assert again.applied == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"config": {"batch_size": 0}}', "config.batch_size: "),
        ('{"config": {"retired": 1}}', "config.retired: unknown field"),
        ('{"config": {"application_id": 5}}', "config.application_id: "),
    ],
)
def test_a_file_that_holds_what_cannot_be(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    options = Options(admin_state=str(path))
    with pytest.raises(StateError, match=rf"^admin_state: {path}: schema violation \({why}[^\n]*$"):
        options.kept_in(path)
    assert options.applied == []


@pytest.mark.parametrize(("folder", "why"), [(False, "No such file"), (True, "Is a directory")])
def test_a_file_that_cannot_be_written_leaves_all_as_it_was(tmp_path: Path, folder: bool, why: str) -> None:
    path = tmp_path / "none" / "state.json"
    options = Options(api_version="given")
    path.parent.mkdir()
    source = options.kept_in(path)
    path.parent.rmdir()
    if folder:
        (path / "x").mkdir(parents=True)
    before = dict(options.given)
    with pytest.raises(NotKept, match=rf"^admin_state: cannot be written \({why}.*\): nothing was changed$"):
        source.patch_plugin(OPTIONS_ID, {"enabled": False, "config": {"debug": True, "api_version": "2"}})
    assert options.given == before
    assert source.document() == {"config": {}}


def test_a_document_replaces_what_was_changed() -> None:
    options = Options(api_version="given")
    source = options.kept_in(None)
    source.take({"config": {"api_version": "given", "debug": True, "application_id": "other-5ecre7"}})
    source.patch_plugin(OPTIONS_ID, {"enabled": False, "config": {"batch_size": 7}})
    document = {"config": {"api_version": "second", "application_id": "other-5ecre7"}}
    source.take(document)
    assert source.document() == document
    assert options.applied[-1] == {
        "api_version": "second",
        **dict.fromkeys(("debug", "batch_size", "enabled"), AS_STARTED),
    }
    assert options.given == {"application_id": "other-5ecre7", "api_version": "second"}


# --- all together --------------------------------------------------------------------------------------------------


def test_a_replaced_entity_is_as_started_but_for_what_is_given() -> None:
    options = Options(api_version="2.0")
    source = options.source()
    source.patch_plugin(OPTIONS_ID, {"config": {"debug": True, "api_version": "3.0", "application_id": "n-5ecre7"}})
    entity = source.replace_plugin(OPTIONS_ID, {"name": "moesif", "config": {"batch_size": 7}}, {"application_id"})
    assert (entity["config"]["debug"], entity["config"]["api_version"], entity["config"]["batch_size"]) == (
        False,
        "2.0",
        7,
    )
    assert options.read().application_id.get_secret_value() == "n-5ecre7", "it was sent back as it was shown"
    source.replace_plugin(OPTIONS_ID, {"name": "moesif"}, ())
    assert options.read() == parse_settings(options.started)
    assert source.document() == {"config": {}}


def test_what_cannot_be_replaced() -> None:
    source = Options().source()
    with pytest.raises(NotFound):
        source.replace_plugin("other", {"name": "moesif"}, ())
    for given_fields in (
        {},
        {"name": "acl"},
        {"name": "moesif", "config": {"batch_size": 0}},
        {"name": "moesif", "foo": 1},
    ):
        with pytest.raises(SchemaViolation):
            source.replace_plugin(OPTIONS_ID, given_fields, ())
    assert source.document() == {"config": {}}


def test_through_the_listener() -> None:
    options = Options()

    class Source(FakeSource):
        """The options behind a listener."""

        local = options.source()
        plugins = local.plugins
        patch_plugin = local.patch_plugin
        add_plugin = local.add_plugin
        remove_plugin = local.remove_plugin

    server = admin_server("127.0.0.1:0", None, Source())
    server.start()
    try:
        (entity,) = requests.get(f"{server.url}/plugins", timeout=10).json()["data"]
        url = f"{server.url}/plugins/{entity['id']}"
        assert requests.patch(url, data={"config.debug": "true"}, timeout=10).json()["config"]["debug"] is True
        entity["config"]["batch_size"] = 6
        del entity["config"]["debug"]
        assert requests.patch(url, json=entity, timeout=10).json()["config"]["batch_size"] == 6
        refused = requests.patch(url, data={"config.application_id": "bad\x075ecre7", "config.foo": "1"}, timeout=10)
        assert refused.status_code == 400
        assert refused.json()["fields"]["config"].keys() == {"application_id", "foo"}
        assert "5ecre7" not in refused.text
        again = requests.post(
            f"{server.url}/plugins", data={"name": "moesif", "config.application_id": "x"}, timeout=10
        )
        assert (again.status_code, again.json()["code"]) == (409, 5)
    finally:
        server.stop()
    assert options.applied == [{"debug": True}, {"batch_size": 6}]

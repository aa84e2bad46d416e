"""Kong's entities as its Admin API shows them, and schemas in its words."""

from __future__ import annotations

from typing import Any

from mitmproxy_moesif.admin.entities import fields_of, plugin_schema, schema, shown
from mitmproxy_moesif.config.settings import SECRETS, Settings
from mitmproxy_moesif.kong.entities import Consumer, Route, Service


def by_name(fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: field for one in fields for name, field in one.items()}


def test_a_service_has_the_defaults_that_kong_gives_it() -> None:
    assert shown(Service(id="s", name="a", host="h"), 7) == {
        "id": "s",
        "name": "a",
        "protocol": "http",
        "host": "h",
        "port": 80,
        "path": None,
        "enabled": True,
        "retries": 5,
        "connect_timeout": 60_000,
        "write_timeout": 60_000,
        "read_timeout": 60_000,
        "tags": None,
        "created_at": 7,
        "updated_at": 7,
    }


def test_what_is_given_is_shown() -> None:
    route = Route(id="r", expression='http.path == "/"', priority=3, created_at=5, updated_at=6, tags=("a",))
    found = shown(route, 7)
    assert (found["expression"], found["priority"], found["paths"]) == ('http.path == "/"', 3, None)
    assert (found["created_at"], found["updated_at"], found["tags"]) == (5, 6, ["a"])
    assert shown(Consumer(id="c", custom_id="1"), 7)["custom_id"] == "1"


def test_the_schema_of_the_plugin_has_every_parameter_that_it_shows() -> None:
    fields = by_name(plugin_schema()["fields"])
    config = by_name(fields["config"]["fields"])
    assert set(config) == {
        name for name in Settings.model_fields if name != "enabled" and not name.startswith("admin_")
    }
    assert {name for name, field in config.items() if field.get("encrypted")} == SECRETS & set(config)
    assert config["batch_size"] == {
        "type": "integer",
        "description": Settings.model_fields["batch_size"].description,
        "between": [1, 1000],
        "default": 50,
        "required": True,
    }
    assert config["connect_timeout"]["between"][0] == 1
    assert config["request_body_masks"]["elements"] == {"type": "string"}
    assert (config["position"]["one_of"], config["sink_file"]["type"]) == (["auto", "front", "behind"], "string")
    assert "default" not in config["application_id"]


def test_every_field_of_a_schema_has_a_type_of_kongs() -> None:
    types = {"string", "integer", "boolean", "array", "set", "map", "record", "foreign", "any"}
    for kind in ("services", "routes", "consumers"):
        found = schema(kind)
        assert found is not None
        assert {field["type"] for field in by_name(found["fields"]).values()} <= types
    assert by_name(list(fields_of(Route)))["service"] == {"type": "foreign", "reference": "services"}
    assert by_name(list(fields_of(Route)))["protocols"]["elements"]["one_of"][:2] == ["http", "https"]
    assert schema("upstreams") is None

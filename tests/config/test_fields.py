"""What is true of a parameter stands on its field: it is declared nowhere else, and honoured everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError

from mitmproxy_moesif.admin.parameters import FIXED, HIDDEN_PREFIX
from mitmproxy_moesif.admin.redact import is_secret
from mitmproxy_moesif.config.fields import FilePath, Property, SettingsError, parameters_with, parse_table, secrets_of
from mitmproxy_moesif.config.settings import SECRETS, START_ONLY, Settings, parse_settings
from mitmproxy_moesif.jwt_gate.settings import GateSettings
from mitmproxy_moesif.lifecycle import unchangeable
from mitmproxy_moesif.proxy.configuration import FILES
from mitmproxy_moesif.runtime import Prepared
from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "addon" / "mitmproxy_moesif"
TABLES: tuple[type[BaseModel], ...] = (Settings, GateSettings)
FILE_PARAMETERS = [(table, name) for table in TABLES for name in sorted(parameters_with(table, Property.FILE))]
SPECIAL = frozenset().union(*(parameters_with(table, *Property) | secrets_of(table) for table in TABLES))
OTHER_VALUES: dict[str, Any] = {
    "background": "threads",
    "engine": "mitmproxy",
    "kong_admin_url": "http://kong:8001",
    "kong_router_flavor": "traditional",
    "admin_listen": "127.0.0.1:8095",
    "recent": 5,
    "recent_raw": True,
}


def test_the_special_parameters_are_these() -> None:
    assert {"application_id", "kafka_config", "akto_api_key", "kong_admin_token", "admin_token"} == SECRETS
    assert secrets_of(GateSettings) == {"jwt_key"}
    assert {"background", "spool_dir", "admin_listen", "admin_token", "admin_state"} <= START_ONLY
    assert {"kong_config", "kong_admin_url", "kong_admin_token"} <= START_ONLY
    assert {name for _, name in FILE_PARAMETERS} == {
        *("sink_file", "spool_dir", "rules_file", "hooks", "kong_config", "admin_state"),
        *("jwt_public_key", "jwt_jwks"),
    }


def collections_of_names(module: Path) -> list[set[str]]:
    """The texts in each literal list, tuple, set and dict of a module."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            items = node.keys if isinstance(node, ast.Dict) else node.elts
            found.append({str(item.value) for item in items if isinstance(item, ast.Constant)})
    return found


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_table_lists_special_parameters(module: Path) -> None:
    """Which three parameters the gate's key comes from is no property of theirs."""
    key_sources = {"jwt_key", "jwt_public_key", "jwt_jwks"}
    tables = [names & SPECIAL for names in collections_of_names(module)]
    assert [names for names in tables if len(names) > 1 and names != key_sources] == []


def beyond_bounds() -> Iterator[tuple[type[BaseModel], str, int]]:
    """The nearest number beyond each bound that is written on a field."""
    for table in TABLES:
        for name, field in table.model_fields.items():
            for bound in field.metadata:
                match bound:
                    case Ge(ge=int(least)):
                        yield table, name, least - 1
                    case Gt(gt=int(least)):
                        yield table, name, least
                    case Le(le=int(most)):
                        yield table, name, most + 1
                    case Lt(lt=int(most)):
                        yield table, name, most


@pytest.mark.parametrize(("table", "name", "value"), beyond_bounds())
def test_each_bound_that_is_written_on_a_field_holds(table: type[BaseModel], name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        table.model_validate({name: value})


def prepared(**changes: Any) -> Prepared:
    return Prepared.of({"application_id": "x", "spool_dir": "off", **changes})


@pytest.mark.parametrize("name", sorted(START_ONLY - {"kong_config", "kong_admin_url"}))
def test_a_live_change_of_a_start_only_parameter_is_refused(name: str) -> None:
    changed = prepared(**{name: OTHER_VALUES.get(name, "/elsewhere")})
    assert unchangeable(prepared(), changed) == f"{name}: can only be set at the start"


@pytest.mark.parametrize("name", sorted(parameters_with(Settings, Property.START_ONLY, Property.LOCAL, Property.FILE)))
def test_no_client_of_the_admin_api_changes_what_belongs_to_the_machine(name: str) -> None:
    assert name in FIXED or name.startswith(HIDDEN_PREFIX)


@pytest.mark.parametrize(("table", "name"), FILE_PARAMETERS)
def test_a_file_is_found_below_the_home_directory(
    table: type[BaseModel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert getattr(parse_table(table, {name: "~/file"}), name) == "/home/ada/file"
    assert getattr(parse_table(table, {name: "./file"}), name) == "./file"
    nobody = "~nobody-of-this-name/file"
    assert getattr(parse_table(table, {name: nobody}), name) == nobody


@pytest.mark.parametrize(("table", "name"), FILE_PARAMETERS)
def test_a_file_is_read_again_on_sighup(table: type[BaseModel], name: str) -> None:
    assert (name if table is GateSettings else f"moesif_{name}") in FILES


@pytest.mark.parametrize(("table", "name"), [(table, name) for table in TABLES for name in sorted(secrets_of(table))])
def test_a_secret_is_shown_nowhere(table: type[BaseModel], name: str) -> None:
    assert "s3cret" not in repr(parse_table(table, {name: "s3cret"}))
    with pytest.raises(SettingsError) as refused:
        parse_table(table, {name: ["s3cret"]})
    assert "s3cret" not in str(refused.value)
    if table is Settings:
        assert is_secret(name)


def test_a_property_is_found_inside_an_annotated_type() -> None:
    class Table(BaseModel):
        plain: str = ""
        file: FilePath = None

    assert parameters_with(Table, Property.FILE) == {"file"}


@pytest.mark.parametrize(("value", "said"), [(None, "null"), (True, "true"), (False, "false"), ("None", "'None'")])
def test_a_wrong_value_is_quoted_as_a_file_has_it(value: object, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"^batch_size: .*, {said} was given$"):
        parse_settings({"batch_size": value})

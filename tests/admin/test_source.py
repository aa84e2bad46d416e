"""The errors in Kong's words."""

from __future__ import annotations

from mitmproxy_moesif.admin.source import ForeignKeyViolation, SchemaViolation, UniqueViolation
from mitmproxy_moesif.kong.errors import scope_key


def test_one_violation_or_several() -> None:
    assert str(SchemaViolation({"foo": "unknown field"})) == "schema violation (foo: unknown field)"
    several = {"config": {"debug": "expected a boolean", "a": {"b": "x"}}, "enabled": ["y", "z"], "@entity": ["w"]}
    assert str(SchemaViolation(several)) == (
        "5 schema violations (w; config.a.b: x; config.debug: expected a boolean; enabled: y; enabled: z)"
    )


def test_a_conflict_of_scopes_is_a_unique_violation() -> None:
    error = UniqueViolation.of(scope_key("moesif", "s", None, None))
    assert str(error) == 'UNIQUE violation detected on \'{consumer=null,name="moesif",route=null,service={id="s"}}\''
    assert error.fields == {"consumer": None, "name": "moesif", "route": None, "service": {"id": "s"}}


def test_an_unknown_id_and_an_unknown_name_are_two_errors() -> None:
    by_id = ForeignKeyViolation.of("service", "id", "s9")
    assert str(by_id) == "the foreign key '{id=\"s9\"}' does not reference an existing 'services' entity."
    assert (by_id.code, by_id.name, by_id.fields) == (4, "foreign key violation", {"service": {"id": "s9"}})
    by_name = ForeignKeyViolation.of("consumer", "username", "bob")
    fault = "the foreign key cannot be resolved with '{username=\"bob\"}' for an existing 'consumers' entity"
    assert str(by_name) == f"foreign key unresolved (consumer.username: {fault})"
    assert (by_name.code, by_name.name) == (13, "foreign keys unresolved")
    assert by_name.fields == {"consumer": {"username": fault}}

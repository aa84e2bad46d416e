"""The errors in Kong's words."""

from __future__ import annotations

from mitmproxy_moesif.admin.source import SchemaViolation, UniqueViolation
from mitmproxy_moesif.kong.entities import Plugin
from mitmproxy_moesif.kong.scopes import ScopeConflict


def test_one_violation_or_several() -> None:
    assert str(SchemaViolation({"foo": "unknown field"})) == "schema violation (foo: unknown field)"
    several = {"config": {"debug": "expected a boolean", "a": {"b": "x"}}, "enabled": ["y", "z"], "@entity": ["w"]}
    assert str(SchemaViolation(several)) == (
        "5 schema violations (w; config.a.b: x; config.debug: expected a boolean; enabled: y; enabled: z)"
    )


def test_a_conflict_of_scopes_is_a_unique_violation() -> None:
    error = UniqueViolation.of(ScopeConflict(Plugin(id="p", name="moesif", service_id="s")))
    assert str(error) == 'UNIQUE violation detected on \'{consumer=null,name="moesif",route=null,service={id="s"}}\''
    assert error.fields == {"consumer": None, "name": "moesif", "route": None, "service": {"id": "s"}}

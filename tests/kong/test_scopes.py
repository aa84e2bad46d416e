"""Which instance applies to a request, and why."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.declarative import parse_declarative
from mitmproxy_moesif.kong.entities import Consumer, KongConfig, Plugin, Route, Service
from mitmproxy_moesif.kong.scopes import AKTO, MOESIF, InstanceTable, ScopeConflict, Scopes

SERVICE = Service(id="s", name="orders", host="h")
ROUTE = Route(id="r", name="list", paths=("/orders",), service=SERVICE)
CONSUMER = Consumer(id="c", username="anna")

# as Kong's documentation lists them: (route, service, consumer)
PRECEDENCE = [
    ("r", "s", "c"),
    ("r", None, "c"),
    (None, "s", "c"),
    ("r", "s", None),
    (None, None, "c"),
    ("r", None, None),
    (None, "s", None),
    (None, None, None),
]


def _instance(route: str | None = None, service: str | None = None, consumer: str | None = None, **more: Any) -> Plugin:
    fields = {"id": f"{route}/{service}/{consumer}", "name": MOESIF, **more}
    return Plugin(route_id=route, service_id=service, consumer_id=consumer, **fields)


@given(st.sets(st.sampled_from(PRECEDENCE), min_size=1), st.booleans(), st.booleans(), st.booleans())
def test_the_most_specific_instance_that_fits_is_used(
    scopes: set[tuple[Any, Any, Any]], with_route: bool, with_service: bool, with_consumer: bool
) -> None:
    route, service = ROUTE if with_route else None, SERVICE if with_service else None
    consumer = CONSUMER if with_consumer else None
    on = (route and "r", service and "s", consumer and "c")
    fitting = [scope for scope in PRECEDENCE if scope in scopes and _fits(scope, on)]
    instance, _ = InstanceTable(_instance(*scope) for scope in scopes).select(MOESIF, route, service, consumer)
    assert (instance and (instance.route_id, instance.service_id, instance.consumer_id)) == (
        fitting[0] if fitting else None
    )


def _fits(scope: tuple[Any, ...], on: tuple[Any, ...]) -> bool:
    return all(named is None or named == entity for named, entity in zip(scope, on, strict=True))


WITH_GROUPS = [
    ("r", "s", "c", None),
    ("r", "s", None, "g"),
    ("r", None, "c", None),
    (None, "s", "c", None),
    ("r", None, None, "g"),
    (None, "s", None, "g"),
    ("r", "s", None, None),
    (None, None, "c", None),
    (None, None, None, "g"),
    ("r", None, None, None),
    (None, "s", None, None),
    (None, None, None, None),
]
"""The same with groups of consumers: (route, service, consumer, group)."""


@given(st.sets(st.sampled_from(WITH_GROUPS), min_size=1), st.booleans())
def test_groups_of_consumers_have_their_place_in_the_order(scopes: set[tuple[Any, ...]], is_member: bool) -> None:
    instances = (_instance(*scope[:3], consumer_group_id=scope[3], id=str(scope)) for scope in scopes)
    consumer = Consumer(id="c", username="anna", group_ids=("g",) if is_member else ())
    fitting = [str(scope) for scope in WITH_GROUPS if scope in scopes and (is_member or scope[3] is None)]
    instance, _ = InstanceTable(instances).select(MOESIF, ROUTE, SERVICE, consumer)
    assert (instance and instance.id) == (fitting[0] if fitting else None)


def test_of_several_groups_the_first_that_has_an_instance_counts() -> None:
    table = InstanceTable(_instance(consumer_group_id=group, id=group) for group in ("silver", "gold"))
    consumer = Consumer(id="c", username="anna", group_ids=("bronze", "gold", "silver"))
    instance, why = table.select(MOESIF, consumer=consumer)
    assert instance is not None
    assert (instance.id, why) == ("gold", 'consumer group "gold" (more specific than: consumer group "silver")')


def test_an_instance_for_another_entity_does_not_apply() -> None:
    table = InstanceTable([_instance("other"), _instance(None, "other"), _instance(None, None, "other")])
    instance, why = table.select(MOESIF, ROUTE, SERVICE, CONSUMER)
    assert instance is None
    assert why == (
        'none of the 3 "moesif" instances applies to this request '
        '(route "list", service "orders", consumer "anna"); 0 disabled'
    )


def test_the_reason_names_the_scope_and_what_it_goes_before() -> None:
    table = InstanceTable([_instance("r", "s", "c"), _instance(None, "s"), _instance()])
    assert table.select(MOESIF, ROUTE, SERVICE, CONSUMER)[1] == (
        'route "list" + service "orders" + consumer "anna" (more specific than: service "orders", global)'
    )
    assert table.select(MOESIF)[1] == "global"
    unnamed = Route(id="r", paths=("/",))
    assert InstanceTable([_instance("r")]).select(MOESIF, unnamed)[1] == 'route "r"'


def test_disabled_instances_and_those_of_plain_connections_do_not_count() -> None:
    table = InstanceTable([_instance("r", enabled=False), _instance(None, "s", protocols=("tcp", "tls")), _instance()])
    assert table.select(MOESIF, ROUTE, SERVICE)[1] == "global"
    off = InstanceTable([_instance(enabled=False)])
    assert off.select(MOESIF) == (
        None,
        'none of the 1 "moesif" instances applies to this request (no route, no service, no consumer); 1 disabled',
    )


def test_instances_of_one_name_say_nothing_about_another() -> None:
    table = InstanceTable([_instance(), _instance(id="a", name=AKTO, service="s")])
    assert table.select(AKTO) == (None, table.select(AKTO)[1])
    assert table.select("other") == (None, 'no "other" plugin is configured')


def test_two_enabled_instances_of_one_scope_are_refused_in_kongs_words() -> None:
    for scope in PRECEDENCE:
        with pytest.raises(ScopeConflict) as caught:
            InstanceTable([_instance(*scope), _instance(*scope, id="second")])
        route, service, consumer = ("null" if named is None else f'{{id="{named}"}}' for named in scope)
        assert caught.value.instance.id == "second"
        assert str(caught.value) == (
            f"UNIQUE violation detected on '{{consumer={consumer},name=\"moesif\",route={route},service={service}}}'"
        )


def test_all_other_scopes_live_side_by_side() -> None:
    instances = [_instance(*scope, id=f"{name}{scope}", name=name) for scope in PRECEDENCE for name in (MOESIF, AKTO)]
    instances += [_instance(*scope, id=f"off{scope}", enabled=False) for scope in PRECEDENCE]
    assert len(InstanceTable(instances).instances) == len(instances)


# --- with a configuration

CONFIG = """
_format_version: "3.0"
services:
- name: orders
  host: orders.internal
  path: /api
  routes:
  - name: list
    paths: [/orders]
    methods: [GET]
  - name: admin
    hosts: [admin.example.com]
    protocols: [https]
    plugins: [{name: moesif, instance_name: for-admin, config: {application_id: s3cret-2}}]
- name: users
  host: users.internal
  routes: [{name: users, paths: [/users]}]
consumers: [{username: anna, custom_id: "1"}]
plugins:
- {name: moesif, service: orders, config: {application_id: s3cret-1}}
- {name: moesif, consumer: anna}
- {name: akto-api-discovery}
- {name: key-auth}
"""


def _scopes() -> Scopes:
    return Scopes(parse_declarative(CONFIG.encode(), "kong.yml"))


def test_a_request_is_explained() -> None:
    scopes = _scopes()
    listing, orders = scopes.config.routes[0], scopes.config.services[0]
    assert scopes.explain("GET", "h", "/orders/17?x=1") == {
        "route": {"id": listing.id, "name": "list"},
        "service": {"id": orders.id, "name": "orders"},
        "consumer": None,
        "instance": {"id": scopes.config.plugins[1].id, "instance_name": None},
        "why": 'service "orders"',
        "matched_path": "/orders",
        "upstream_path": "/api/17",
        "turned_away": None,
    }


def test_every_input_of_the_explanation_counts() -> None:
    scopes = _scopes()
    anna = scopes.config.find_consumer(username="anna")
    assert scopes.explain("GET", "h", "/users")["why"].startswith('none of the 3 "moesif" instances')
    assert scopes.explain("GET", "h", "/users", consumer=anna)["why"] == 'consumer "anna"'
    assert scopes.explain("GET", "h", "/users", name=AKTO)["why"] == "global"
    assert scopes.explain("GET", "h", "/none")["route"] is None
    on_admin = scopes.explain("GET", "admin.example.com", "/")
    assert (on_admin["instance"]["instance_name"], on_admin["turned_away"]) == ("for-admin", 426)
    assert scopes.explain("GET", "admin.example.com", "/", scheme="https")["turned_away"] is None


def test_an_explanation_is_json_and_shows_no_configuration() -> None:
    scopes = _scopes()
    for method, host, path in itertools.product(("GET", "PUT"), ("h", "admin.example.com"), ("/orders", "/users", "/")):
        assert "s3cret" not in json.dumps(scopes.explain(method, host, path))


def test_only_our_plugins_are_instances() -> None:
    assert {instance.name for instance in _scopes().instances.instances} == {MOESIF, AKTO}


def test_an_empty_configuration_has_no_instance_and_no_route() -> None:
    explained = Scopes(KongConfig()).explain("GET", None, "/")
    assert (explained["route"], explained["instance"]) == (None, None)
    assert explained["why"] == 'no "moesif" plugin is configured'

"""Kong's declarative file and the Admin API's listings become the same entities."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.kong import declarative
from mitmproxy_moesif.kong.declarative import KongConfigError, from_admin_api, load_declarative, parse_declarative
from mitmproxy_moesif.kong.entities import KongConfig, Plugin, Service

FULL = """\
_format_version: "3.0"
_transform: true
services:
- name: orders
  url: https://orders.internal/base
  tags: [shop]
  connect_timeout: 60000
  plugins:
  - name: moesif
    instance_name: for-orders
    config:
      application_id: app-of-orders
  routes:
  - name: list
    paths: [/orders, '~/orders/(?<id>\\d+)$']
    methods: [GET]
    headers:
      X-Tenant: [Green]
    strip_path: no
    plugins:
    - name: moesif
      enabled: off
- name: users
  host: users.internal
  port: 8080
  protocol: http
routes:
- name: profile
  service: users
  hosts: ["*.example.com", "api.example.com:8443"]
  snis: [example.com]
  regex_priority: 3
  created_at: 1700000000
- paths: [/serviceless]
consumers:
- username: anna
  custom_id: "4711"
  keyauth_credentials:
  - key: not-read
  plugins:
  - name: akto-api-discovery
    config: {sample: 1}
- custom_id: "4712"
plugins:
- name: rate-limiting
  config: {minute: 5}
- name: moesif
  service: orders
  route: {name: profile}
  consumer: anna
  protocols: [http, https]
upstreams:
- name: not-read
consumer_groups:
- name: gold
"""


def _parse(text: str) -> KongConfig:
    return parse_declarative(text.encode(), "kong.yml")


def _error(text: str) -> str:
    with pytest.raises(KongConfigError) as caught:
        _parse(text)
    return str(caught.value)


def _wrong(kind: str, *lines: str) -> str:
    """The error that one entity causes; it starts on line 3."""
    return _error(f'_format_version: "3.0"\n{kind}:\n- ' + "\n  ".join(lines) + "\n")


def test_everything_we_read_is_read() -> None:
    config = _parse(FULL)
    orders, users = config.services
    assert (orders.protocol, orders.host, orders.port, orders.path) == ("https", "orders.internal", 443, "/base")
    assert (users.protocol, users.host, users.port, users.path) == ("http", "users.internal", 8080, None)
    listing, profile, serviceless = config.routes
    assert (listing.service, profile.service, serviceless.service) == (orders, users, None)
    assert listing.headers == {"x-tenant": ("Green",)}
    assert (listing.methods, listing.strip_path, profile.strip_path) == (("GET",), False, True)
    assert (profile.regex_priority, profile.created_at, profile.snis) == (3, 1700000000, ("example.com",))
    assert [consumer.username for consumer in config.consumers] == ["anna", None]
    assert config.version == "3.0"


def test_a_plugin_is_for_what_it_is_nested_in_or_names() -> None:
    config = _parse(FULL)
    orders, _ = config.services
    listing, profile, _ = config.routes
    anna, _ = config.consumers
    scopes = [(plugin.name, plugin.service_id, plugin.route_id, plugin.consumer_id) for plugin in config.plugins]
    assert scopes == [
        ("moesif", orders.id, None, None),
        ("moesif", None, listing.id, None),
        ("akto-api-discovery", None, None, anna.id),
        ("rate-limiting", None, None, None),
        ("moesif", orders.id, profile.id, anna.id),
    ]
    assert [plugin.enabled for plugin in config.plugins] == [True, False, True, True, True]
    assert config.plugins[0].instance_name == "for-orders"
    assert config.plugins[0].config == {"application_id": "app-of-orders"}
    assert config.plugins[4].protocols == ("http", "https")


def test_ids_are_kongs_where_there_is_a_name_and_stable_where_there_is_none() -> None:
    first, second = _parse(FULL), _parse(FULL)
    kong = uuid.UUID("fd02801f-0957-4a15-a55a-c8d9606f30b5")
    assert first.services[0].id == str(uuid.uuid5(uuid.uuid5(kong, "services"), "orders"))
    assert first.routes[0].id == str(uuid.uuid5(uuid.uuid5(kong, "routes"), "list"))
    assert first.consumers[0].id == str(uuid.uuid5(uuid.uuid5(kong, "consumers"), "anna"))
    for kind in ("services", "routes", "consumers", "plugins"):
        ids = [entity.id for entity in getattr(first, kind)]
        assert ids == [entity.id for entity in getattr(second, kind)]
        assert len({uuid.UUID(entity_id) for entity_id in ids}) == len(ids)


def test_a_plugins_id_follows_its_scope_not_its_place() -> None:
    text = '_format_version: "3.0"\nservices: [{name: a, host: h}]\nplugins:\n'
    one, other = "- {name: moesif}\n", "- {name: moesif, service: a}\n"
    assert {p.service_id: p.id for p in _parse(text + one + other).plugins} == {
        p.service_id: p.id for p in _parse(text + other + one).plugins
    }


def test_a_given_id_is_kept_whatever_it_looks_like() -> None:
    config = _parse(
        '_format_version: "3.0"\nservices: [{id: s0, host: h}]\nroutes: [{id: r0, paths: [/], service: s0}]'
    )
    assert (config.services[0].id, config.routes[0].id) == ("s0", "r0")
    assert config.routes[0].service is config.services[0]


def test_references_are_names_or_ids_bare_or_in_a_record() -> None:
    for reference in ("a", "a-id", "{name: a}", "{id: a-id}"):
        config = _parse(
            '_format_version: "3.0"\nservices: [{name: a, id: a-id, host: h}]\n'
            f"routes: [{{paths: [/], service: {reference}}}]\nplugins: [{{name: moesif, service: {reference}}}]"
        )
        assert config.routes[0].service is config.services[0]
        assert config.plugins[0].service_id == "a-id"


def test_json_is_read_as_well() -> None:
    root = {"_format_version": "3.0", "services": [{"name": "a", "url": "http://h:81", "path": None}]}
    service = _parse(json.dumps(root)).services[0]
    assert (service.host, service.port, service.path) == ("h", 81, None)


def test_null_is_the_same_as_absent() -> None:
    config = _parse('_format_version: "3.0"\nservices: ~\nroutes: [{paths: [/], hosts: ~, service: ~, strip_path: ~}]')
    assert (config.services, config.routes[0].hosts, config.routes[0].strip_path) == ((), (), True)


def test_what_deck_adds_is_understood() -> None:
    config = _parse(
        """
        _format_version: "3.0"
        _info:
          select_tags: [team]
          defaults: {route: {strip_path: false}, service: {port: 8080}}
        _konnect: {control_plane_name: x}
        _plugin_configs:
          shared: {batch_size: 10, debug: false}
        services: [{name: a, host: h, routes: [{name: r, paths: [/]}, {name: s, paths: [/s], strip_path: true}]}]
        plugins: [{name: moesif, _config: shared, config: {debug: true}}]
        """
    )
    assert config.services[0].port == 8080
    assert [route.strip_path for route in config.routes] == [False, True]
    assert config.plugins[0].config == {"batch_size": 10, "debug": True}


@pytest.mark.parametrize("version", ["1.1", "2.1"])
def test_before_3_0_a_path_that_is_not_plain_is_an_expression(version: str) -> None:
    paths = ["/plain/x~-_.", "/caf%c3%a9", r"/orders/\d+", "/a%2eb(c)", "/a%2f+", "/%7B(b)", r"~/users/\d+", "/a//b"]
    root = {"_format_version": version, "routes": [{"paths": paths}]}
    assert _parse(json.dumps(root)).routes[0].paths == (
        "/plain/x~-_.",
        "/café",
        r"~/orders/\d+",
        r"~/a\.b(c)",
        "~/a%2F+",
        r"~/\{(b)",
        r"~/users/\d+",
        "/a/b",
    )


def test_from_3_0_a_path_is_what_it_says() -> None:
    paths = ["/caf%C3%A9", "/a+", r"~/a\d"]
    assert _parse(json.dumps({"_format_version": "3.0", "routes": [{"paths": paths}]})).routes[0].paths == tuple(paths)


@pytest.mark.parametrize("version", ["1.1", "2.1", "3.0"])
def test_a_version_without_quotes_is_taken(version: str) -> None:
    assert _parse(f"_format_version: {version}").version == version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "kong.yml:1: is not a Kong configuration: _format_version: required field missing"),
        ("- a", "kong.yml:1: is not a Kong configuration: _format_version: required field missing"),
        ("services: []", "kong.yml:1: _format_version: required field missing"),
        ('a: 1\n_format_version: "4.0"', "kong.yml:2: _format_version: expected one of: 1.1, 2.1, 3.0"),
        ("_format_version: 3", "kong.yml:1: _format_version: expected one of: 1.1, 2.1, 3.0"),
        ("_format_version: [3.0]", "kong.yml:1: _format_version: expected one of: 1.1, 2.1, 3.0"),
        ("_format_version: 3.0\nservice: []", "kong.yml:2: service: unknown field; did you mean services?"),
        ("_format_version: 3.0\nservices: {a: b}", "kong.yml:2: services: expected an array"),
        ("_format_version: 3.0\nplugins:\n- moesif", "kong.yml:3: plugins[0]: expected a record"),
    ],
)
def test_a_file_that_is_none_of_kongs_is_refused(text: str, message: str) -> None:
    assert _error(text) == message


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("services", ["name: a"], '3: services[0] "a": host: required field missing'),
        ("services", ["name: a", "host: h", 'port: "80"'], '5: services[0] "a": port: expected an integer'),
        ("services", ["host: h", "port: 65536"], "4: services[0]: port: Input should be less than or equal to 65535"),
        ("services", ["host: h", "path: a"], "4: services[0]: path: should start with: /"),
        (
            "services",
            ["host: h", "protocol: ftp"],
            "4: services[0]: protocol: expected one of: 'http', 'https', 'grpc'",
        ),
        ("services", ["host: h", "tags: a"], "4: services[0]: tags: expected an array"),
        ("services", ["url: h"], "3: services[0]: url: should be protocol://host:port/path"),
        ("services", ["url: http://h:x"], "3: services[0]: url: is not a URL"),
        ("services", ["url: 3"], "3: services[0]: url: expected a string"),
        ("services", ["name: 3", "host: h"], "3: services[0]: name: expected a string"),
        ("services", ["id: 3", "host: h"], "3: services[0]: id: expected a string"),
        ("services", ['name: ""', "host: h"], '3: services[0] "": name: length must be at least 1'),
        ("services", ["host: h", "enabled: maybe"], "4: services[0]: enabled: expected a boolean"),
        ("routes", ["name: a"], "3: routes[0] \"a\": must set one of 'methods', 'hosts', 'headers', 'paths', 'snis'"),
        ("routes", ["paths: /a"], "3: routes[0]: paths: expected an array"),
        ("routes", ["paths:", "- /a", "- 3"], "5: routes[0]: paths[1]: expected a string"),
        ("routes", ["paths: [a]"], "3: routes[0]: paths[0]: 'a' should start with: / (fixed path) or ~/ (regex path)"),
        ("routes", ["paths: [/a//b]"], "3: routes[0]: paths[0]: '/a//b' must not have empty segments"),
        ("routes", ["paths:", "- '~/a['"], "4: routes[0]: paths[0]: invalid regex: '/a[' ("),
        ("routes", ["hosts: ['a.*.b']"], "3: routes[0]: hosts[0]: 'a.*.b': invalid wildcard: must be placed at left"),
        ("routes", ["hosts: ['*.*']"], "3: routes[0]: hosts[0]: '*.*': invalid wildcard: must have at most one"),
        ("routes", ["hosts: ['a/b']"], "3: routes[0]: hosts[0]: 'a/b' is not a host name"),
        ("routes", ["methods: [get]"], "3: routes[0]: methods[0]: invalid value: 'get'"),
        ("routes", ["headers:", "  x: y"], "4: routes[0]: headers.x: expected an array"),
        ("routes", ["headers:", "  Host: [y]"], "3: routes[0]: headers: cannot contain 'host' header"),
        ("routes", ["headers:", "  x: ['~*[']"], "3: routes[0]: headers: invalid regex: '['"),
        ("routes", ["paths: [/a]", "path_handling: v2"], "4: routes[0]: path_handling: expected one of: 'v0' or 'v1'"),
        ("routes", ["paths: [/a]", "created_at: soon"], "4: routes[0]: created_at: expected an integer"),
        (
            "routes",
            ["paths: [/a]", "expression: 'http.path == \"/\"'"],
            "4: routes[0]: expression: cannot set 'expression' with 'methods', 'hosts', 'paths'",
        ),
        (
            "routes",
            ["paths: [/a]", "priority: -1"],
            "4: routes[0]: priority: Input should be greater than or equal to 0",
        ),
        (
            "routes",
            ["paths: [/a]", "sources: [{ip: 10.0.0.1}]"],
            "4: routes[0]: sources: is not supported on routes for",
        ),
        (
            "routes",
            ["paths: [/a]", "destinations: [{port: 1}]"],
            "4: routes[0]: destinations: is not supported on route",
        ),
        ("routes", ["paths: [/a]", "host: [a]"], "4: routes[0]: host: unknown field; did you mean hosts?"),
        (
            "routes",
            ["paths: [/a]", "protocols: [grpc]", "strip_path: true"],
            "5: routes[0]: strip_path: cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
        ),
        (
            "plugins",
            ["name: moesif", "sevice: a"],
            '4: plugins[0] "moesif": sevice: unknown field; did you mean service?',
        ),
        (
            "plugins",
            ["name: moesif", "condition: a"],
            '4: plugins[0] "moesif": condition: is not supported; give the ins',
        ),
        (
            "plugins",
            ["name: moesif", "ordering: {before: {}}"],
            '4: plugins[0] "moesif": ordering: is not supported; remove it',
        ),
        ("plugins", ["name: moesif", "partials: [{id: a}]"], '4: plugins[0] "moesif": partials: is not supported; put'),
        (
            "routes",
            ["paths: [/a]", "service: b"],
            "4: routes[0]: invalid reference 'service: b' (no such entry in 'serv",
        ),
        ("routes", ["paths: [/a]", "service: {id: b}"], "4: routes[0]: invalid reference 'service: b' (no such entry"),
        ("routes", ["paths: [/a]", "service: 3"], "4: routes[0]: service: expected a name or an id"),
        (
            "consumers",
            ["tags: []"],
            "3: consumers[0]: at least one of these fields must be non-empty: 'custom_id', 'us",
        ),
        ("consumers", ["username: 3"], "3: consumers[0]: username: expected a string"),
        ("plugins", ["enabled: true"], "3: plugins[0]: name: required field missing"),
        ("plugins", ["name: moesif", "config: secret"], '4: plugins[0] "moesif": config: expected a map'),
        (
            "plugins",
            ["name: moesif", "route: b"],
            "4: plugins[0] \"moesif\": invalid reference 'route: b' (no such entry",
        ),
        ("plugins", ["name: moesif", "consumer: b"], "4: plugins[0] \"moesif\": invalid reference 'consumer: b'"),
        (
            "plugins",
            ["name: moesif", "consumer_group: g"],
            '4: plugins[0] "moesif": invalid reference \'consumer_group: ',
        ),
        (
            "plugins",
            ["name: moesif", "_config: x"],
            "4: plugins[0] \"moesif\": _config: no such entry in '_plugin_configs'",
        ),
    ],
)
def test_what_is_wrong_with_an_entity_is_told_with_line_entity_and_reason(
    kind: str, lines: list[str], message: str
) -> None:
    found = _wrong(kind, *lines)
    assert found.startswith(f"kong.yml:{message}")
    assert "\n" not in found


def test_a_nested_entity_is_named_with_all_that_it_is_in() -> None:
    text = FULL.replace("enabled: off", "enabled: [off]")
    place = 'services[0] "orders" > routes[0] "list" > plugins[0] "moesif"'
    assert _error(text) == f"kong.yml:22: {place}: enabled: expected a boolean"


def test_a_nested_entity_cannot_belong_to_another() -> None:
    services = "services:\n- {name: b, host: h}\n- name: a\n  host: h\n  routes:\n  - paths: [/]\n    service: "
    text = f'_format_version: "3.0"\n{services}'
    assert _error(text + "b").startswith('kong.yml:8: services[1] "a" > routes[0]: service: is already set')
    assert _parse(text + "a").routes[0].service == _parse(text + "a").services[1]


@pytest.mark.parametrize(
    ("kind", "first", "second", "what"),
    [
        ("services", "{name: a, host: h}", "{name: a, host: i}", "name set to 'a'"),
        ("services", "{id: a, host: h}", "{id: a, host: i}", "primary key set to 'a'"),
        ("routes", "{name: a, paths: [/]}", "{name: a, paths: [/b]}", "name set to 'a'"),
        ("consumers", "{username: a}", "{username: a}", "username set to 'a'"),
        ("consumers", "{custom_id: a}", "{custom_id: a}", "custom_id set to 'a'"),
        ("plugins", "{name: x, instance_name: a}", "{name: y, instance_name: a}", "instance_name set to 'a'"),
    ],
)
def test_names_and_ids_are_unique(kind: str, first: str, second: str, what: str) -> None:
    found = _error(f'_format_version: "3.0"\n{kind}:\n- {first}\n- {second}\n')
    assert found.startswith(f"kong.yml:4: {kind}[1]")
    assert found.endswith(f": uniqueness violation: '{kind}' entity with {what} already declared")


def test_two_enabled_instances_of_one_scope_are_refused_in_kongs_words() -> None:
    text = '_format_version: "3.0"\nplugins:\n- name: moesif\n- name: {}\n  enabled: {}\n'
    assert _error(text.format("moesif", "true")) == (
        'kong.yml:4: plugins[1] "moesif": '
        "UNIQUE violation detected on '{consumer=null,name=\"moesif\",route=null,service=null}'"
    )
    assert len(_parse(text.format("moesif", "false")).plugins) == 2
    assert len(_parse(text.format("akto-api-discovery", "true")).plugins) == 2


def test_plugins_for_consumer_groups_are_left_out_where_they_are_not_ours() -> None:
    assert _parse('_format_version: "3.0"\nplugins: [{name: rate-limiting, consumer_group: gold}]').plugins == ()
    nested = "consumer_groups: [{name: gold, plugins: [{name: rate-limiting}]}]"
    assert _parse(f'_format_version: "3.0"\n{nested}').plugins == ()
    assert (
        _parse('_format_version: "3.0"\nconsumers: [{username: a, groups: [{name: gold}]}]').consumers[0].group_ids
        == ()
    )


@pytest.mark.parametrize(
    "groups",
    [
        "consumer_groups: [{name: gold}]\nconsumers: [{username: a, groups: [{name: gold}]}, {username: b}]",
        "consumer_groups: [{name: gold, consumers: [{username: a}]}]\nconsumers: [{username: a}, {username: b}]",
        """
consumer_groups: [{name: gold}]
consumers: [{username: a}, {username: b}]
consumer_group_consumers: [{consumer: a, consumer_group: {name: gold}}]""",
    ],
)
def test_who_is_in_a_group_is_told_in_three_places(groups: str) -> None:
    config = _parse(f'_format_version: "3.0"\n{groups}\nplugins: [{{name: moesif, consumer_group: gold}}]')
    (plugin,) = config.plugins
    assert plugin.consumer_group_id is not None
    assert [consumer.group_ids for consumer in config.consumers] == [(plugin.consumer_group_id,), ()]


def test_an_instance_nested_in_a_group_is_for_it() -> None:
    group = "consumer_groups: [{name: gold, plugins: [{name: moesif}], consumers: [a]}]"
    config = _parse(f'_format_version: "3.0"\n{group}\nconsumers: [{{username: a}}]')
    assert config.plugins[0].consumer_group_id == config.consumers[0].group_ids[0]


def test_a_group_without_known_consumers_is_refused() -> None:
    text = '_format_version: "3.0"\nconsumer_groups: [{name: gold}]\nplugins:\n- name: moesif\n  consumer_group: gold\n'
    assert _error(text).startswith('kong.yml:5: plugins[0] "moesif": consumer_group: has no known consumers; list it')
    assert len(_parse(f"{text}consumer_group_consumers: []\n").plugins) == 1


def test_a_member_that_is_not_there_is_refused_with_its_line() -> None:
    text = (
        '_format_version: "3.0"\nconsumer_groups: [{name: gold}]\nplugins: [{name: moesif, consumer_group: gold}]\n'
        "consumer_group_consumers:\n- {consumer: nobody, consumer_group: gold}\n"
    )
    assert _error(text).startswith("kong.yml:5: consumer_group_consumers[0]: invalid reference 'consumer: nobody'")


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("consumers: [{username: ada, groups: gold}]", 'kong.yml:4: consumers[0] "ada": groups: expected an array'),
        ("consumers: [{username: ada, groups: 1}]", 'kong.yml:4: consumers[0] "ada": groups: expected an array'),
        ("consumer_group_consumers: 1", "kong.yml:4: consumer_group_consumers: expected an array"),
    ],
)
def test_who_is_in_a_group_is_told_in_arrays(told: str, error: str) -> None:
    groups = "consumer_groups: [{name: gold}]\nplugins: [{name: moesif, consumer_group: gold}]"
    assert _error(f'_format_version: "3.0"\n{groups}\n{told}') == error


# --- expressions

STRANGE = '_format_version: "3.0"\nservices: [{name: s, host: h}]\nroutes:\n- name: r\n  expression: tls.alpn == "h2"\n'


def test_a_route_whose_expression_is_not_understood_is_told_and_refused_where_an_instance_depends_on_routes() -> None:
    line = 'kong.yml:5: routes[0] "r": expression: tls.alpn: is not understood here; http.path, '
    (told,) = _parse(STRANGE).not_understood
    assert told.startswith(line)
    assert _parse(f"{STRANGE}plugins: [{{name: moesif}}, {{name: cors, service: s}}]").not_understood == (told,)
    for scope in ("service: s", "route: r"):
        assert _error(f"{STRANGE}plugins: [{{name: moesif, {scope}}}]") == told
        assert _parse(f"{STRANGE}plugins: [{{name: moesif, enabled: false, {scope}}}]").not_understood == (told,)


def test_the_expression_of_a_stream_route_is_passed_over() -> None:
    config = _parse(STRANGE.replace("name: r", "name: r\n  protocols: [tcp]"))
    assert (config.not_understood, len(config.routes)) == ((), 1)


# --- as Kong takes it


def test_of_keys_given_twice_the_last_counts_and_of_documents_the_first() -> None:
    assert _parse('_format_version: "3.0"\nservices: [{name: a, name: b, host: h}]\n---\na: [').services[0].name == "b"
    twice = '{"_format_version": "3.0", "services": [],\n"services": [{"name": "a"}]}'
    assert _error(twice) == 'kong.yml:2: services[0] "a": host: required field missing'
    assert _error('_format_version: "3.0"\nservices: []\nservices:\n- name: a\n').startswith("kong.yml:4: ")


def test_an_empty_list_and_an_empty_map_are_one() -> None:
    config = _parse(
        '_format_version: "3.0"\nservices: {}\nplugins: [{name: moesif, config: [], tags: {}}]\n'
        "routes: [{paths: [/], hosts: {}, headers: [], plugins: {}}]"
    )
    assert (config.services, config.plugins[0].config, config.plugins[0].tags) == ((), {}, ())
    assert (config.routes[0].hosts, config.routes[0].headers) == ((), {})


def test_a_grpc_route_strips_nothing() -> None:
    assert _parse('_format_version: "3.0"\nroutes: [{paths: [/], protocols: [grpcs]}]').routes[0].strip_path is False


# --- the environment


def test_values_of_the_environment_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECK_PORT", "8080")
    monkeypatch.setenv("MOESIF_ID", "s3cret")
    config = _parse(
        '_format_version: "3.0"\nservices: [{name: a, host: h, port: 1}, {name: b, host: h, port: 2}]\n'
        "plugins: [{name: moesif, config: {application_id: '{vault://env/moesif-id}', list: ['{vault://env/moesif-id}']}}]\n"
        'routes:\n- paths: [/]\n  regex_priority: ${{ env "DECK_PORT" | toInt }}\n'
    )
    assert config.routes[0].regex_priority == 8080
    assert config.plugins[0].config == {"application_id": "s3cret", "list": ["s3cret"]}


def test_a_reference_that_stands_for_nothing_is_refused_with_its_line() -> None:
    text = '_format_version: "3.0"\nplugins:\n- name: moesif\n  config:\n    debug: true\n    application_id: "{}"\n'
    place = 'kong.yml:6: plugins[0] "moesif": config.application_id: '
    assert _error(text.format("{vault://env/not-there}")) == f"{place}the environment variable NOT_THERE is not set"
    assert _error(text.format("{vault://aws/x}")).startswith(
        f"{place}the only supported vault is {{vault://env/name}}; "
    )
    assert _parse(text.format("{vault://aws/x}").replace("moesif", "cors")).plugins[0].name == "cors"


# --- what an instance says


def test_a_fault_in_the_config_of_an_instance_is_told_with_its_line() -> None:
    def check(plugin: Plugin) -> None:
        raise SettingsError("batch_size: must be a number")

    text = '_format_version: "3.0"\nplugins:\n- name: moesif\n  config:\n    debug: true\n    batch_size: x\n'
    with pytest.raises(KongConfigError) as caught:
        parse_declarative(text.encode(), "kong.yml", check)
    assert str(caught.value) == 'kong.yml:6: plugins[0] "moesif": batch_size: must be a number'
    off = text.replace("- name: moesif", "- name: moesif\n  enabled: false")
    assert len(parse_declarative(off.encode(), "kong.yml", check).plugins) == 1


@given(st.sampled_from(["name", "enabled", "service", "config", "protocols", "instance_name", "id", "tags"]))
def test_no_error_shows_a_configured_value(field: str) -> None:
    plugin: dict[str, Any] = {"name": "moesif", "config": {"application_id": "s3cret", "x": {"s3cret": []}}}
    plugin[field] = {"s3cret": "s3cret"} if field != "config" else ["s3cret"]
    assert "s3cret" not in _error(json.dumps({"_format_version": "3.0", "plugins": [plugin]}))


def test_the_scope_of_a_plugin_is_its_references_alone() -> None:
    assert _parse('_format_version: "3.0"\nplugins: [{name: moesif, service_id: x}]').plugins[0].service_id is None


def test_entities_cannot_be_changed() -> None:
    service = _parse(FULL).services[0]
    assert isinstance(service, Service)
    with pytest.raises(ValueError, match="frozen"):
        service.host = "other"


# --- files


def test_a_file_is_loaded_and_errors_name_it(tmp_path: Path) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(FULL)
    assert load_declarative(path) == _parse(FULL)
    path.write_text("a: [")
    with pytest.raises(KongConfigError, match=rf"^{path}:1: is not valid YAML"):
        load_declarative(path)


def test_a_file_that_is_not_there_or_too_big_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KongConfigError, match=r"none\.yml: No such file or directory$"):
        load_declarative(tmp_path / "none.yml")
    path = tmp_path / "kong.yml"
    path.write_text(FULL)
    monkeypatch.setattr(declarative, "MAX_JSON", 10)
    with pytest.raises(KongConfigError, match=r"kong\.yml: has more than 10 bytes$"):
        load_declarative(path)


# --- the Admin API


def _listed() -> dict[str, Any]:
    return {
        "services": [{"id": "s1", "name": "orders", "host": "h", "port": 80, "protocol": "http", "path": None}],
        "routes": [
            {"id": "r1", "name": "list", "service": {"id": "s1"}, "paths": ["/orders"], "hosts": None, "created_at": 5}
        ],
        "plugins": [
            {
                "id": "p1",
                "name": "moesif",
                "service": {"id": "s1"},
                "route": None,
                "consumer": {"id": "c1"},
                "consumer_group": None,
                "config": {"application_id": "x"},
                "enabled": True,
                "protocols": ["http", "https"],
            }
        ],
        "consumers": [{"id": "c1", "username": "anna", "custom_id": None, "created_at": 1, "tags": None}],
    }


def test_the_admin_apis_listings_make_the_same_entities() -> None:
    config = from_admin_api(**_listed())
    assert config.routes[0].service is config.services[0]
    plugin = config.plugins[0]
    assert (plugin.id, plugin.service_id, plugin.route_id, plugin.consumer_id) == ("p1", "s1", None, "c1")
    assert config.find_consumer(username="anna") is config.consumers[0]


def test_an_admin_api_of_a_kong_before_3_0_has_expressions_without_tilde() -> None:
    listed = _listed()
    listed["routes"][0]["paths"] = [r"/orders/\d+"]
    assert from_admin_api(**listed, version="2.1").routes[0].paths == (r"~/orders/\d+",)


def test_a_listing_that_does_not_hold_together_is_refused() -> None:
    listed = _listed()
    listed["services"] = []
    with pytest.raises(KongConfigError, match=r"""^Admin API: routes\[0\] "list": invalid reference 'service: s1'"""):
        from_admin_api(**listed)


# --- consumers


def test_a_consumer_is_found_by_the_first_thing_that_is_known() -> None:
    config = _parse(FULL)
    anna, other = config.consumers
    assert config.find_consumer(anna.id) is anna
    assert config.find_consumer("unknown", "anna", "4712") is anna
    assert config.find_consumer(None, "unknown", "4712") is other
    assert config.find_consumer(None, None, "4711") is anna
    assert config.find_consumer() is None
    assert config.find_consumer("x", "y", "z") is None


def test_an_error_is_one_line_whatever_things_are_called() -> None:
    for name in ("a\\nb", "a\\0b"):
        line = _wrong("plugins", "name: moesif", f'instance_name: "{name}"')
        assert "instance_name: must be text without control characters" in line
        line = _wrong("services", f'name: "{name}"')
        assert "host: required field missing" in line
        assert len(line.splitlines()) == 1
        assert "\0" not in line

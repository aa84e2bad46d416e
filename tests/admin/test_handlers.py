"""What the paths answer, over sockets."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mitmproxy_moesif.admin.entities import plugin_schema, schema
from mitmproxy_moesif.admin.redact import SHOWN
from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.admin.source import (
    ForeignKeyViolation,
    NotFound,
    NotKept,
    SchemaViolation,
    UniqueViolation,
    Unsupported,
)
from mitmproxy_moesif.kong.errors import scope_key
from mitmproxy_moesif.web.handlers import MAX_BODY_BYTES
from tests.admin.sources import APPLICATION_ID, ID, FakeSource
from tests.support.client import Client


def ask(server: AdminServer, method: str, path: str, **more: Any) -> requests.Response:
    return requests.request(method, server.url + path, timeout=10, **more)


# --- what is read --------------------------------------------------------------------------------------------------


def test_status_is_what_the_proxy_says(server: AdminServer, source: FakeSource) -> None:
    answer = ask(server, "GET", "/status")
    assert (answer.status_code, answer.json()) == (200, source.state)
    told = answer.json()
    assert told["captured"] == told["delivered"] + sum(told["waiting"].values()) + sum(told["dropped"].values())
    assert source.asked == {"status": 1}


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("method=POST&host=api.example.com&path=/orders%3Fa", ("POST", "api.example.com", "/orders?a")),
        ("path=/a", ("GET", None, "/a")),
        ("host=h", ("GET", "h", "/")),
    ],
)
def test_status_tells_which_instance_a_request_is_for(
    server: AdminServer, source: FakeSource, query: str, asked: tuple[str, str | None, str]
) -> None:
    answer = ask(server, "GET", f"/status?{query}")
    assert answer.json()["request"] == {"instance": {"id": ID}, "why": "global"}
    assert source.explained == [asked]


def test_metrics_are_for_prometheus(server: AdminServer) -> None:
    answer = ask(server, "GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"moesif_events_captured", "moesif_events_waiting", "moesif_receiver_up"} <= names


def test_health_follows_the_proxy(server: AdminServer, source: FakeSource) -> None:
    answer = ask(server, "GET", "/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    source.wrong = "the oldest event waits since 301 s"
    answer = ask(server, "GET", "/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unhealthy", "reason": "the oldest event waits since 301 s"}


def test_ping_needs_nothing_of_the_proxy(server: AdminServer, source: FakeSource) -> None:
    source.fault = RuntimeError()
    answer = ask(server, "GET", "/ping")
    assert (answer.status_code, answer.text) == (200, "PONG")


def test_plugins_without_their_secrets(server: AdminServer, source: FakeSource) -> None:
    shown = json.loads(json.dumps(source.plugin))
    shown["config"]["application_id"] = SHOWN
    assert ask(server, "GET", "/plugins").json() == {"data": [shown], "next": None}
    assert ask(server, "GET", f"/plugins/{ID}").json() == shown
    assert ask(server, "GET", "/plugins/orders").json() == shown


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/plugins/other",
        "/plugins/a/b",
        "/services/nobody",
        "/services/nobody/routes",
        "/routes/r1/nothing",
        "/plugins/moesif",
        f"/services/orders/plugins/{ID}",
        f"/services/nobody/plugins/{ID}",
    ],
)
def test_what_is_not_there(server: AdminServer, path: str) -> None:
    answer = ask(server, "GET", path)
    assert (answer.status_code, answer.json()) == (404, {"message": "Not found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/plugins", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/plugins", "GET, HEAD, OPTIONS, POST"),
        ("POST", f"/plugins/{ID}", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("POST", f"/services/orders/plugins/{ID}", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("DELETE", "/services/orders/plugins", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/status", "GET, HEAD, OPTIONS"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("POST", "/services", "GET, HEAD, OPTIONS"),
        ("DELETE", "/services/orders", "GET, HEAD, OPTIONS"),
        ("PATCH", "/schemas/plugins/moesif", "GET, HEAD, OPTIONS"),
        ("GEEEET", "/", "GET, HEAD, OPTIONS"),
    ],
)
def test_methods_that_a_path_does_not_have(server: AdminServer, method: str, path: str, allowed: str) -> None:
    answer = ask(server, method, path)
    assert (answer.status_code, answer.json()) == (405, {"message": "Method not allowed"})
    assert answer.headers["Allow"] == allowed
    options = ask(server, "OPTIONS", path)
    assert (options.status_code, options.content, options.headers["Allow"]) == (204, b"", allowed)


PATHS = ["", "/status", "/metrics", "/health", "/ping", "/plugins", f"/plugins/{ID}", "/plugins/enabled", "/services"]
PATHS += ["/services/orders", "/services/orders/routes", "/schemas/services", "/schemas/plugins/moesif", "/upstreams"]


@pytest.mark.parametrize("path", PATHS)
def test_heads_and_slashes_at_the_end(server: AdminServer, path: str) -> None:
    full = ask(server, "GET", f"{path}/")
    head = ask(server, "HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(full.content))


@pytest.mark.parametrize("path", ["/status", "/metrics", "/health", "/ping", "/plugins", "/nothing"])
def test_no_answer_is_for_other_sites_or_caches(server: AdminServer, path: str) -> None:
    headers = ask(server, "GET", path, headers={"Origin": "https://evil.example"}).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert not {"Server", "Etag"} & set(headers)
    assert not [name for name in headers if name.lower().startswith("access-control")]


# --- what is changed -----------------------------------------------------------------------------------------------


def test_a_patch_is_answered_with_the_whole_entity(server: AdminServer, source: FakeSource) -> None:
    answer = ask(server, "PATCH", f"/plugins/{ID}", data="config.debug=true", headers=FORM)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert source.changes == [{"config": {"debug": "true"}}]
    assert answer.json()["config"] == {"application_id": SHOWN, "debug": "true", "request_header_masks": []}
    assert set(answer.json()) == set(source.plugin)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "config.debug=true"], {"config": {"debug": "true"}}),
        (["-d", "config.request_header_masks[]=a", "-d", "config.request_header_masks[]=b"], "masks"),
        (["-d", "config.request_header_masks=a", "-d", "config.request_header_masks=b"], "masks"),
        (["-d", "config.request_header_masks[1]=a", "-d", "config.request_header_masks[2]=b"], "masks"),
        (["-F", "config.request_header_masks[1]=a", "-F", "config.request_header_masks[2]=b"], "masks"),
        (["--data-urlencode", "config.api_version=ä&b"], {"config": {"api_version": "ä&b"}}),
        (
            ["-H", "Content-Type: application/json", "-d", '{"enabled": false, "config": {"debug": true}}'],
            {"enabled": False, "config": {"debug": True}},
        ),
    ],
)
def test_curl_lines_of_kongs_documentation(
    server: AdminServer, source: FakeSource, arguments: list[str], expected: Any
) -> None:
    line = ["curl", "-sS", "-i", "--noproxy", "*", "-X", "PATCH", f"{server.url}/plugins/{ID}", *arguments]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=20, check=True).stdout
    assert answer.startswith("HTTP/1.1 200 OK")
    assert source.changes == [{"config": {"request_header_masks": ["a", "b"]}} if expected == "masks" else expected]


def test_an_instance_is_added(server: AdminServer, source: FakeSource) -> None:
    form = {"name": "moesif", "config.application_id": "new-5ecre7", "service.name": "orders"}
    answer = ask(server, "POST", "/plugins/", data=form)
    assert answer.status_code == 201
    assert source.changes == [
        {"name": "moesif", "config": {"application_id": "new-5ecre7"}, "service": {"name": "orders"}}
    ]
    assert "5ecre7" not in answer.text
    assert answer.json()["config"] == {"application_id": SHOWN}


def test_a_patch_by_instance_name_reaches_the_id(server: AdminServer, source: FakeSource) -> None:
    assert ask(server, "PATCH", "/plugins/orders", json={"enabled": False}).status_code == 200
    assert source.changes == [{"enabled": False}]


@pytest.mark.parametrize(("kind", "name", "entity"), [("service", "orders", "s1"), ("consumer", "ada", "c1")])
def test_the_instances_of_one_entity(
    server: AdminServer, source: FakeSource, kind: str, name: str, entity: str
) -> None:
    path = f"/{kind}s/{name}/plugins"
    assert ask(server, "GET", path).json() == {"data": [], "next": None}
    source.plugin[kind] = {"id": entity}
    assert [plugin["id"] for plugin in ask(server, "GET", path).json()["data"]] == [ID]
    answer = ask(server, "POST", path, data={"name": "moesif", f"{kind}.id": "another"})
    assert (answer.status_code, source.changes) == (201, [{"name": "moesif", kind: {"id": entity}}])
    for method in ("GET", "POST"):
        unknown = ask(server, method, f"/{kind}s/nobody/plugins")
        assert (unknown.status_code, unknown.json()) == (404, {"message": "Not found"})
    assert len(source.changes) == 1


def test_an_instance_below_what_it_is_for(server: AdminServer, source: FakeSource) -> None:
    source.plugin["service"] = {"id": "s1"}
    for path in (f"/services/orders/plugins/{ID}", "/services/s1/plugins/orders"):
        assert ask(server, "GET", path).json()["id"] == ID
        assert ask(server, "PATCH", path, json={"enabled": False}).status_code == 200
        assert ask(server, "PUT", path, json={"name": "moesif"}).status_code == 200
        assert source.changes[-2:] == [{"enabled": False}, {"name": "moesif", "service": {"id": "s1"}}]
        assert ask(server, "DELETE", path).status_code == 204
        for method in ("GET", "PATCH", "DELETE"):
            elsewhere = ask(
                server, method, path.replace("services", "consumers").replace("/orders/", "/ada/").replace("s1", "c1")
            )
            assert (elsewhere.status_code, elsewhere.json()) == (404, {"message": "Not found"})


def test_an_instance_is_replaced(server: AdminServer, source: FakeSource) -> None:
    entity = ask(server, "GET", f"/plugins/{ID}").json()
    for path in (f"/plugins/{ID}", "/plugins/orders"):
        assert ask(server, "PUT", path, json={**entity, "enabled": False}).status_code == 200
        assert source.left_alone == {"application_id"}
        assert (source.changes[-1]["enabled"], source.changes[-1]["config"]) == (
            False,
            {"debug": False, "request_header_masks": []},
        )
    assert source.asked["replace"] == 2


def test_one_that_is_not_there_is_made_by_a_put(server: AdminServer, source: FakeSource) -> None:
    other = "0a0a0a0a-0000-4000-8000-000000000001"
    assert ask(server, "PUT", f"/plugins/{other}", json={"name": "moesif"}).status_code == 200
    assert ask(server, "PUT", "/services/orders/plugins/fresh", json={"name": "moesif"}).status_code == 200
    assert source.changes == [
        {"name": "moesif", "id": other},
        {"name": "moesif", "service": {"id": "s1"}, "instance_name": "fresh"},
    ]


# --- what decK and Kong Manager read -------------------------------------------------------------------------------


def test_the_root_tells_which_kong_it_answers_as(server: AdminServer, source: FakeSource) -> None:
    told = ask(server, "GET", "/").json()
    assert told["version"].startswith("3.9")
    assert (told["plugins"]["enabled_in_cluster"], told["configuration"]["router_flavor"]) == (
        ["moesif"],
        "traditional",
    )
    source.state["kong"] = {"router_flavor": "expressions"}
    assert ask(server, "GET", "/").json()["configuration"]["router_flavor"] == "expressions"
    assert ask(server, "GET", "/plugins/enabled").json() == {"enabled_plugins": ["moesif"]}


def test_services_routes_and_consumers(server: AdminServer) -> None:
    services = ask(server, "GET", "/services").json()["data"]
    assert [service["name"] for service in services] == ["orders", "quiet"]
    assert ask(server, "GET", "/services/orders").json() == ask(server, "GET", "/services/s1").json() == services[0]
    (route,) = ask(server, "GET", "/routes").json()["data"]
    assert (route["service"], route["paths"], route["hosts"], route["headers"]) == (
        {"id": "s1"},
        ["/orders"],
        None,
        {"x-a": ["1"]},
    )
    assert not {"expression", "priority"} & set(route)
    assert ask(server, "GET", "/services/orders/routes").json()["data"] == [route]
    assert ask(server, "GET", "/services/quiet/routes").json()["data"] == []
    (consumer,) = ask(server, "GET", "/consumers").json()["data"]
    assert consumer == ask(server, "GET", "/consumers/ada").json()
    assert "group_ids" not in consumer
    assert ask(server, "GET", "/services?tags=a").json()["data"] == services[:1]
    page = ask(server, "GET", "/services?size=1").json()
    assert (page["next"], page["offset"]) == ("/services?offset=1&size=1", "1")
    assert ask(server, "GET", page["next"]).json() == {"data": services[1:], "next": None}


@pytest.mark.parametrize("kind", ["upstreams", "certificates", "snis", "ca_certificates", "vaults", "key-auths"])
def test_kinds_that_are_not_read_are_empty(server: AdminServer, kind: str) -> None:
    assert ask(server, "GET", f"/{kind}?size=1000").json() == {"data": [], "next": None}


def test_schemas(server: AdminServer) -> None:
    assert ask(server, "GET", "/schemas/plugins/moesif").json() == plugin_schema()
    assert ask(server, "GET", "/schemas/routes").json() == schema("routes")
    for path, message in (("plugins/acl", "No plugin named 'acl'"), ("targets", "No entity named 'targets'")):
        answer = ask(server, "GET", f"/schemas/{path}")
        assert (answer.status_code, answer.json()) == (404, {"message": message})


def test_a_deletion_has_no_content(server: AdminServer, source: FakeSource) -> None:
    answer = ask(server, "DELETE", "/plugins/orders")
    assert (answer.status_code, answer.content, source.asked["remove"]) == (204, b"", 1)
    assert ask(server, "DELETE", "/plugins/nothing").status_code == 204, "as Kong answers"
    assert source.asked["remove"] == 1


def test_what_cannot_be_done_here_says_what_to_do(server: AdminServer, source: FakeSource) -> None:
    source.fault = Unsupported("cannot delete it: PATCH enabled=false")
    answer = ask(server, "DELETE", f"/plugins/{ID}")
    assert answer.status_code == 405
    assert answer.json() == {
        "code": 12,
        "name": "operation unsupported",
        "message": "cannot delete it: PATCH enabled=false",
    }


def test_an_instance_for_what_is_not_there(server: AdminServer, source: FakeSource) -> None:
    source.fault = ForeignKeyViolation.of("service", "id", "s9")
    answer = ask(server, "POST", "/plugins", data={"name": "moesif", "service.id": "s9"})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 4,
        "name": "foreign key violation",
        "message": "the foreign key '{id=\"s9\"}' does not reference an existing 'services' entity.",
        "fields": {"service": {"id": "s9"}},
    }


def test_a_listing_by_tags_and_its_errors(server: AdminServer, source: FakeSource) -> None:
    source.plugin["tags"] = ["a", "b"]
    assert [len(ask(server, "GET", f"/plugins?tags={tags}").json()["data"]) for tags in ("a,b", "a,c", "c/b")] == [
        1,
        0,
        1,
    ]
    answer = ask(server, "GET", "/plugins?size=0")
    assert (answer.status_code, answer.json()["code"], answer.json()["name"]) == (400, 9, "invalid size")


def test_an_unknown_plugin_is_not_asked_for(server: AdminServer, source: FakeSource) -> None:
    answer = ask(server, "PATCH", "/plugins/other", json={"enabled": False})
    assert (answer.status_code, answer.json()) == (404, {"message": "Not found"})
    assert not source.changes
    source.fault = NotFound()
    assert ask(server, "PATCH", f"/plugins/{ID}", json={}).json() == {"message": "Not found"}


def test_a_secret_sent_back_as_shown_is_left_alone(server: AdminServer, source: FakeSource) -> None:
    entity = ask(server, "GET", f"/plugins/{ID}").json()
    entity["config"]["debug"] = True
    assert ask(server, "PATCH", f"/plugins/{ID}", json=entity).status_code == 200
    assert source.changes[0]["config"] == {"debug": True, "request_header_masks": []}


def test_a_schema_violation_as_kong_tells_it(server: AdminServer, source: FakeSource) -> None:
    source.fault = SchemaViolation({"config": {"foo": "unknown field"}})
    answer = ask(server, "PATCH", f"/plugins/{ID}", json={"config": {"foo": 1}})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 2,
        "name": "schema violation",
        "message": "schema violation (config.foo: unknown field)",
        "fields": {"config": {"foo": "unknown field"}},
    }


UNIQUE = "UNIQUE violation detected on '{consumer=null,name=\"moesif\",route=null,service=null}'"


@pytest.mark.parametrize(
    "fault",
    [
        UniqueViolation.of(scope_key("moesif", None, None, None)),
        UniqueViolation(UNIQUE, {"consumer": None, "name": "moesif", "route": None, "service": None}),
    ],
)
def test_a_second_instance_of_a_scope_as_kong_tells_it(
    server: AdminServer, source: FakeSource, fault: Exception
) -> None:
    source.fault = fault
    answer = ask(server, "POST", "/plugins", data={"name": "moesif"})
    assert answer.status_code == 409
    assert answer.json() == {
        "code": 5,
        "name": "unique constraint violation",
        "message": UNIQUE,
        "fields": {"consumer": None, "name": "moesif", "route": None, "service": None},
    }


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        ("{", "application/json", 400, "Cannot parse JSON body"),
        ("a=1&a.b=1", "application/x-www-form-urlencoded", 400, "a.b: given in two forms that exclude each other"),
        ("a: 1", "application/yaml", 415, "Content-Type must be"),
    ],
)
def test_a_body_that_cannot_be_read_changes_nothing(
    server: AdminServer, source: FakeSource, body: str, content_type: str, status: int, message: str
) -> None:
    for method, path in (("PATCH", f"/plugins/{ID}"), ("POST", "/plugins")):
        answer = ask(server, method, path, data=body, headers={"Content-Type": content_type})
        assert answer.status_code == status
        assert answer.json()["message"].startswith(message)
    assert not source.changes


# --- secrets and faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["message", "fields", "kept"])
def test_a_secret_is_not_told_by_an_error(server: AdminServer, source: FakeSource, where: str) -> None:
    secret = 'new-5ecre7-"ä'
    text = f"'{secret}' was given"
    source.fault = {
        "message": UniqueViolation(text, {}),
        "fields": SchemaViolation({"config": {"application_id": text}}),
        "kept": NotKept(text),
    }[where]
    answer = ask(server, "PATCH", f"/plugins/{ID}", json={"config": {"application_id": secret}})
    assert answer.status_code in (400, 409, 500)
    assert SHOWN in answer.text
    assert "5ecre7" not in answer.text


def test_a_change_that_cannot_be_kept_says_so(server: AdminServer, source: FakeSource) -> None:
    source.fault = NotKept("admin_state: cannot be written")
    answer = ask(server, "PATCH", f"/plugins/{ID}", json={})
    assert (answer.status_code, answer.json()) == (500, {"message": "admin_state: cannot be written"})


def test_a_fault_of_ours_is_told_once_and_without_content(
    server: AdminServer, source: FakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    source.fault = RuntimeError(APPLICATION_ID)
    caplog.set_level("DEBUG")
    for method, path in (("GET", "/status"), ("GET", "/metrics"), ("PATCH", f"/plugins/{ID}"), ("POST", "/plugins")):
        answer = ask(server, method, path, json={"config": {"application_id": APPLICATION_ID}})
        assert (answer.status_code, answer.json()) == (500, {"message": "An unexpected error occurred"})
    ours = [record for record in caplog.records if record.name == "moesif"]
    assert [record.levelname for record in ours] == ["ERROR"]
    assert "RuntimeError at sources.py" in ours[0].getMessage()
    assert APPLICATION_ID not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("tornado")]


def test_requests_are_not_logged(server: AdminServer, source: FakeSource, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    source.fault = SchemaViolation({"foo": "unknown field"})
    for path in ("/ping", "/nothing", "/plugins"):
        ask(server, "GET", path)
        ask(server, "POST", path, data="foo=secret")
    assert not [record for record in caplog.records if record.name.startswith(("moesif", "tornado"))]


# --- hostile requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 2_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read(
    server: AdminServer, source: FakeSource, size: int, chunked: bool
) -> None:
    with Client(int(server.url.rpartition(":")[2])) as client:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        head = f"POST /plugins HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
        client.send(head.encode())
        if chunked and size < 1_000_000:
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b" " * size))
        elif chunked:
            client.send(b"%x\r\n" % size)
        response = client.read_response("POST")
    assert response is not None
    assert response.status == (400 if chunked and size > 1_000_000 else 413)
    if response.status == 413:
        assert json.loads(response.body) == {"message": f"a body may have at most {MAX_BODY_BYTES} bytes"}
    assert not source.changes
    assert ask(server, "GET", "/ping").text == "PONG"


def test_the_largest_body_is_read(server: AdminServer, source: FakeSource) -> None:
    body = json.dumps({"config": {"api_version": "x"}}).ljust(MAX_BODY_BYTES)
    answer = ask(server, "PATCH", f"/plugins/{ID}", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert source.changes == [{"config": {"api_version": "x"}}]


def test_a_foreign_name_and_a_foreign_page_reach_nothing(server: AdminServer, source: FakeSource) -> None:
    for path in ("/ping", "/status", "/plugins", "/nothing"):
        refused = ask(server, "GET", path, headers={"Host": "evil.example"})
        assert (refused.status_code, refused.headers["Connection"]) == (403, "close")
    answer = ask(server, "POST", "/plugins", data={"name": "moesif"}, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["message"]) == (403, "changes from another site's page are refused")
    own = {"Origin": server.url}
    assert ask(server, "PATCH", f"/plugins/{ID}", json={}, headers=own).status_code == 200
    assert source.asked == {"plugins": 1, "patch": 1}


def test_many_requests_on_one_connection(server: AdminServer, source: FakeSource) -> None:
    with requests.Session() as session:
        for number in range(20):
            changed = session.patch(f"{server.url}/plugins/{ID}", json={"config": {"batch_size": number}}, timeout=10)
            assert changed.json()["config"]["batch_size"] == number
            assert session.get(f"{server.url}/nothing", timeout=10).status_code == 404
    assert source.asked["patch"] == 20

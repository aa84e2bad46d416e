"""The stand-in by itself: what the other tests of this folder take for Kong's doing is Kong's doing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import wire
from tests.support.client import RawResponse
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain
from tests.topology.kong import credential_id
from tests.topology.nginx import KONG_ADDRESS, KongLikeNginx
from tests.topology.stations import ADA_KEY, CLIENT, GUEST, KONG, STACKS, ClientFrom

FORGED = [("X-Consumer-Id", "f"), ("X-Consumer-Username", "f"), ("X-Consumer-Custom-Id", "f")]
FROM_BEFORE = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public.example.com"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Path", "/public/orders/7"),
    ("X-Forwarded-Prefix", "/public/orders"),
]


@pytest.fixture
def kong(upstream: ScriptedUpstream) -> Iterator[KongLikeNginx]:
    with KongLikeNginx(upstream.port, KONG) as kong:
        yield kong


def send(kong: KongLikeNginx, target: str, headers: wire.Pairs = ()) -> RawResponse:
    with ClientFrom(kong.port, CLIENT) as client:
        answer = client.exchange("GET", target, headers)
    assert answer is not None, kong.output
    return answer


def about_client(request: RawRequest) -> dict[str, str]:
    return {
        name: value
        for name, value in request.headers
        if name.lower().startswith(("x-forwarded-", "x-consumer-", "x-real-", "x-cred", "x-anon", "apikey"))
    }


def test_a_request_that_is_passed_on(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    answer = send(kong, "/orders/7%2F?x=1&apikey=mine", [("apikey", ADA_KEY), ("X-Own", "1"), *FORGED])
    (request,) = upstream.requests()
    ada = STACKS.consumers[0]
    assert request.target == "/7%2F?x=1"
    assert request.get("host") == f"127.0.0.1:{upstream.port}"
    assert request.get("x-own") == "1"
    assert request.get_all("via") == ["1.1 kong/3.9.3"]
    assert request.get_all("x-kong-request-id") == answer.get_all("x-kong-request-id") != []
    assert about_client(request) == {
        "X-Forwarded-For": CLIENT,
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "api.example.com",
        "X-Forwarded-Port": str(kong.port),
        "X-Forwarded-Path": "/orders/7%2F",
        "X-Forwarded-Prefix": "/orders",
        "X-Real-IP": CLIENT,
        "X-Consumer-Id": ada.id,
        "X-Consumer-Username": "ada",
        "X-Consumer-Custom-Id": "customer-42",
        "X-Credential-Identifier": credential_id(ADA_KEY),
    }


def test_an_answer_that_is_passed_on(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    upstream.answer("/own", wire.response(404, [("Server", "gunicorn"), ("Via", "1.1 cache")], b"of the service"))
    answer = send(kong, "/open/own")
    assert (answer.status, answer.body) == (404, b"of the service")
    assert answer.get_all("server") == ["gunicorn"]
    assert answer.get_all("via") == ["1.1 cache, 1.1 kong/3.9.3"]
    for name in ("x-kong-upstream-latency", "x-kong-proxy-latency"):
        (latency,) = answer.get_all(name)
        assert latency.isdigit()
    assert answer.get("x-kong-response-latency") is None
    assert send(kong, "/open").get_all("server") == ["kong/3.9.3"]


def test_whose_forwarded_headers_are_passed_on(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    send(kong, "/orders/7", [("apikey", ADA_KEY), *FROM_BEFORE])
    with KongLikeNginx(upstream.port, KONG, trusted_ips=[f"{CLIENT}/32"]) as trusting:
        send(trusting, "/orders/7", [("apikey", ADA_KEY), *FROM_BEFORE])
    distrusted, trusted = map(about_client, upstream.requests())
    assert distrusted["X-Real-IP"] == CLIENT
    assert trusted["X-Real-IP"] == "203.0.113.9"
    for believed, host, path in ((distrusted, "api.example.com", "/orders/7"), (trusted, "public.example.com", None)):
        assert believed["X-Forwarded-For"] == f"203.0.113.9, {CLIENT}"
        assert believed["X-Forwarded-Host"] == host
        assert believed["X-Forwarded-Path"] == (path or "/public/orders/7")
    assert (distrusted["X-Forwarded-Proto"], distrusted["X-Forwarded-Port"]) == ("http", str(kong.port))
    assert (trusted["X-Forwarded-Proto"], trusted["X-Forwarded-Port"]) == ("https", "443")
    assert (distrusted["X-Forwarded-Prefix"], trusted["X-Forwarded-Prefix"]) == ("/orders", "/public/orders")


def test_consumers_of_routes_with_and_without_authentication(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    send(kong, "/guests", FORGED)
    send(kong, "/guests", [("apikey", "key-of-bob"), *FORGED])
    send(kong, "/open", FORGED)
    guest, bob, anyone = map(about_client, upstream.requests())
    assert (guest["X-Consumer-Id"], guest["X-Consumer-Username"]) == (GUEST.id, "guest")
    assert guest["X-Anonymous-Consumer"] == "true"
    assert not guest.keys() & {"X-Consumer-Custom-Id", "X-Credential-Identifier"}
    assert bob["X-Consumer-Username"] == "bob"
    assert bob["apikey"] == "key-of-bob"
    assert not bob.keys() & {"X-Consumer-Custom-Id", "X-Anonymous-Consumer"}
    assert anyone["X-Consumer-Username"] == "f"


@pytest.mark.parametrize(
    ("target", "headers", "status", "message"),
    [
        ("/orders", [], 401, "No API key found in request"),
        ("/orders?apikey=wrong", [], 401, "Unauthorized"),
        ("/elsewhere", [], 404, "no Route matched with those values"),
        ("/by-host", [], 404, "no Route matched with those values"),
        ("/limited", [], 429, "API rate limit exceeded"),
    ],
)
def test_what_kong_answers_itself(
    target: str, headers: wire.Pairs, status: int, message: str, kong: KongLikeNginx, upstream: ScriptedUpstream
) -> None:
    if target == "/limited":
        assert send(kong, target).status == 200
    answer = send(kong, target, headers)
    assert answer.status == status
    assert message.encode() in answer.body
    assert (answer.get("x-kong-request-id") or "?").encode() in answer.body
    assert answer.get_all("server") == ["kong/3.9.3"]
    assert answer.get("via") is None
    assert (answer.get("x-kong-response-latency") or "").isdigit()
    assert answer.get("x-kong-upstream-latency") is None
    assert len(upstream.requests()) == (target == "/limited")


def test_paths_and_hosts(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    for target in ("/open", "/open/", "/openX", "/open?a=/b", "/kept/a?", "/by-host/x"):
        send(kong, target, [("Host", "Shop.Example.com:8000")])
    requests = upstream.requests()
    assert [request.target for request in requests] == ["/", "/", "/X", "/?a=/b", "/kept/a?", "/x"]
    assert requests[4].get_all("host") == ["Shop.Example.com:8000"]
    assert requests[4].get("x-forwarded-host") == "shop.example.com"
    assert requests[4].get("x-forwarded-prefix") is None


def test_its_connections_have_an_address_of_their_own(kong: KongLikeNginx, upstream: ScriptedUpstream) -> None:
    peers = []

    def note_peer(request: RawRequest, connection: Connection) -> None:
        peers.append(connection.sock.getpeername()[0])
        plain(request, connection)

    upstream.answer("/", note_peer)
    send(kong, "/open")
    assert peers == [KONG_ADDRESS]


def test_without_nginx_the_test_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install nginx-light"):
        KongLikeNginx(1, KONG)

"""front.yml and behind.yml without containers: `moesif-proxy` with their arguments and environment, Kong with theirs.

What stands in for the network: the names of services are addresses of loopback, and the subnet that the stack trusts is
the address of the one whom it is for.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import APPLICATION_ID, REPOSITORY, wire
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream
from tests.topology.kong import VERSION
from tests.topology.nginx import KONG_ADDRESS, KongLikeNginx
from tests.topology.stations import ADA_KEY, CLIENT, PROXY, STACKS, Topology

COMPOSE = REPOSITORY / "compose"
HOST = ("Host", "localhost:8000")
SERVICE = "127.0.0.1"


def services(stack: str) -> dict[str, Any]:
    """The services of a stack with what they extend; of their options only those that are used here."""
    read = YAML(typ="safe").load
    common, own = read(COMPOSE / "services.yml")["services"], read(COMPOSE / f"{stack}.yml")["services"]
    for name, service in own.items():
        assert service["extends"]["service"] == name
        service["environment"] = {**common[name].get("environment", {}), **service.get("environment", {})}
    return dict(own)


def environment(service: Mapping[str, Any], trusted: str) -> dict[str, str]:
    """As Compose gives it to the container, `trusted` for the subnet of the stack."""
    given = {name: str(value) for name, value in service["environment"].items()}
    return {
        name: re.sub(r"\$\{INSIDE_SUBNET[^}]*\}", f"{trusted}/32", value)
        for name, value in given.items()
        if name != "MOESIF_APPLICATION_ID"
    }


def moesif_proxy(service: Mapping[str, Any], collector: ScriptedCollector, trusted: str, upstream: str) -> MoesifProxy:
    """With `upstream` for the one that the stack names."""
    (mounted,) = service["volumes"]
    host, _, container = mounted.removesuffix(":ro").partition(":")
    assert service["environment"]["MOESIF_KONG_CONFIG"] == container
    arguments = [str(argument) for argument in service["command"]]
    arguments[arguments.index("--listen") + 1] = "127.0.0.1:0"
    arguments[arguments.index("--upstream") + 1] = upstream
    ours = {
        "MOESIF_APPLICATION_ID": APPLICATION_ID,
        "MOESIF_API_ENDPOINT": collector.url,
        "MOESIF_FLUSH_INTERVAL": "50",
        "MOESIF_KONG_CONFIG": str(COMPOSE / host),
        "MOESIF_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
    }
    return MoesifProxy(None, None, *arguments, environment={**environment(service, trusted), **ours})


@pytest.fixture(scope="module")
def front_stack() -> Iterator[Topology]:
    stack = services("front")
    kongs = environment(stack["kong"], PROXY)
    assert (kongs["KONG_REAL_IP_HEADER"], kongs["KONG_REAL_IP_RECURSIVE"]) == ("X-Forwarded-For", "on")
    with ExitStack() as started:
        collector, service = started.enter_context(ScriptedCollector()), started.enter_context(ScriptedUpstream())
        kong = started.enter_context(
            KongLikeNginx(service.port, STACKS, trusted_ips=kongs["KONG_TRUSTED_IPS"].split(","))
        )
        proxy = started.enter_context(moesif_proxy(stack["addon"], collector, "nobody", kong.url))
        yield Topology(collector, service, kong, proxy, proxy)


@pytest.fixture(scope="module")
def behind_stack() -> Iterator[Topology]:
    stack = services("behind")
    assert "KONG_TRUSTED_IPS" not in environment(stack["kong"], SERVICE)
    with ExitStack() as started:
        collector, service = started.enter_context(ScriptedCollector()), started.enter_context(ScriptedUpstream())
        proxy = started.enter_context(moesif_proxy(stack["addon"], collector, KONG_ADDRESS, service.url))
        kong = started.enter_context(KongLikeNginx(proxy.port, STACKS))
        yield Topology(collector, service, kong, proxy, kong)


def test_front_as_its_comment_says(front_stack: Topology) -> None:
    seen = front_stack.ask(target="/orders/7", headers=[HOST, ("apikey", ADA_KEY)])
    assert seen.answer.status == 200
    assert seen.service.target == "/7"
    assert seen.event["request"]["uri"] == "http://localhost:8000/orders/7"
    assert seen.kong is not None
    latencies = {"upstream_latency_ms", "proxy_latency_ms"}
    assert seen.kong.keys() == {"request_id", "version", "service_name", "route_name", *latencies}
    assert (seen.kong["service_name"], seen.kong["route_name"]) == ("orders", "orders")
    refused = front_stack.ask(target="/orders/7", headers=[HOST])
    assert refused.asked is None
    assert refused.event["response"]["status"] == 401
    names = {"service_name": "orders", "route_name": "orders"}
    assert refused.kong == {"request_id": refused.answer.get("x-kong-request-id"), "version": VERSION, **names}


@pytest.mark.parametrize(("sent", "real"), [(None, CLIENT), ("203.0.113.9", CLIENT)])
def test_in_front_kong_is_told_who_the_client_is(sent: str | None, real: str, front_stack: Topology) -> None:
    """The proxy appends the peer to X-Forwarded-For and Kong believes the proxy: what a client sent is passed over."""
    headers = [("X-Forwarded-For", sent)] if sent else []
    seen = front_stack.ask(target="/catalogue", headers=[HOST, *headers])
    listed = f"{sent}, {CLIENT}" if sent else CLIENT
    assert seen.service.get_all("x-forwarded-for") == [f"{listed}, {PROXY}"]
    assert seen.service.get_all("x-real-ip") == [real]
    assert seen.service.get("x-forwarded-host") == "localhost"
    assert seen.service.get("x-forwarded-proto") == "http"
    assert seen.event["request"]["headers"].get("x-forwarded-for") == sent


def test_behind_as_its_comment_says(behind_stack: Topology) -> None:
    seen = behind_stack.ask(target="/orders/7?x=1", headers=[HOST, ("apikey", ADA_KEY)])
    assert seen.service.target == "/7?x=1"
    assert seen.service.get("x-consumer-custom-id") == "customer-42"
    assert seen.event["user_id"] == "customer-42"
    assert seen.event["request"]["uri"] == f"http://localhost:{behind_stack.kong.port}/orders/7?x=1"
    assert seen.kong is not None
    assert (seen.kong["service_name"], seen.kong["route_name"]) == ("orders", "orders"), "by the path that Kong cut off"


def test_behind_the_service_is_told_what_kong_says_of_the_client(behind_stack: Topology) -> None:
    seen = behind_stack.ask(target="/catalogue", headers=[HOST, ("X-Forwarded-For", "203.0.113.9")])
    assert seen.service.get_all("x-forwarded-for") == [f"203.0.113.9, {CLIENT}"]
    assert seen.service.get_all("x-forwarded-host") == ["localhost"]
    assert seen.event["request"]["ip_address"] == CLIENT
    assert "user_id" not in seen.event


@pytest.mark.parametrize("stack", ["front_stack", "behind_stack"])
@pytest.mark.parametrize(("query", "headers"), [("", [("apikey", ADA_KEY)]), (f"?apikey={ADA_KEY}", [])])
def test_the_key_is_in_no_event(
    stack: str, query: str, headers: list[tuple[str, str]], request: pytest.FixtureRequest
) -> None:
    topology: Topology = request.getfixturevalue(stack)
    seen = topology.ask(target=f"/orders/7{query}", headers=headers)
    assert seen.answer.status == 200
    assert ADA_KEY not in str(seen.event)


@pytest.mark.parametrize("stack", ["front_stack", "behind_stack"])
def test_the_images_health_check_asks_the_addon(stack: str, request: pytest.FixtureRequest) -> None:
    proxy = request.getfixturevalue(stack).proxy
    assert isinstance(proxy, MoesifProxy)
    said = re.search("Admin API at http://(.+)", proxy.wait_for_output("Admin API at"))
    assert said is not None
    told = subprocess.run(
        [sys.executable, COMPOSE / "healthcheck.py", str(proxy.port)],
        env={"MOESIF_ADMIN_LISTEN": said[1]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, '{"status":"ok"}\n', "")


@pytest.mark.parametrize("stack", ["front_stack", "behind_stack"])
def test_bodies_through_the_stacks(stack: str, request: pytest.FixtureRequest) -> None:
    topology: Topology = request.getfixturevalue(stack)
    topology.service.answer("/made", wire.response(201, [], {"made": 7}, chunked=True))
    seen = topology.ask("POST", "/catalogue/made", [("Content-Type", "application/json")], b'{"n": 1}', chunked=True)
    assert (seen.answer.status, seen.answer.body) == (201, b'{"made": 7}')
    assert seen.event["request"]["body"] == {"n": 1}
    assert seen.event["response"]["body"] == {"made": 7}

"""The Compose files: Compose takes them, they are what their comments say, and nothing in them is open without need."""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import Settings, parse_settings
from mitmproxy_moesif.kong.declarative import load_declarative
from mitmproxy_moesif.kong.resolver import Resolver
from mitmproxy_moesif.kong.resolver import names as scoping_names
from mitmproxy_moesif.kong.router import Router
from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.web.access import Address
from tests.compose.tools import (
    COMPOSE,
    FEEDING_MOESIF,
    REQUIRED,
    STACKS,
    YAML_FILES,
    Published,
    all_parsed,
    arguments_of,
    compose_config,
    environment,
    leading_comment,
    mounts,
    networks,
    parsed,
    published,
    resolve,
    seconds,
)

Configs = dict[str, dict[str, Any]]

LOOPBACK = "127.0.0.1"
OPEN = {
    "front": {Published("addon", None, 8000, 8080)},
    "behind": {Published("kong", None, 8000, 8000)},
    "debug": {
        Published("addon", LOOPBACK, 8000, 8080),
        Published("addon", LOOPBACK, 8081, 8081),
        Published("collector", LOOPBACK, 8090, 8090),
    },
    "kong-postgres": {
        Published("addon", None, 8000, 8080),
        Published("kong", LOOPBACK, 8001, 8001),
        Published("kong", LOOPBACK, 8002, 8002),
    },
}
"""Every port that a stack opens, and where; nothing else is reached from outside."""


def settings_of(service: dict[str, Any]) -> Settings:
    """The addon's settings in a stack. Raises `SettingsError` where it would not start."""
    return parse_settings(given_environment(environment(service)))


def inside(config: dict[str, Any]) -> str:
    """The addresses of the network that has no way out."""
    assert config["networks"]["inside"]["internal"] is True
    (entry,) = config["networks"]["inside"]["ipam"]["config"]
    return str(ipaddress.ip_network(entry["subnet"]))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(COMPOSE)))
def test_yaml_means_the_same_to_readers_of_either_version(path: Any) -> None:
    """A bare `off`, `yes` or 8000:22 is a text for one reader and something else for another."""
    text = path.read_text()
    assert all_parsed(text, (1, 1)) == all_parsed(text, (1, 2))


@pytest.mark.parametrize("stack", STACKS)
def test_compose_takes_it(stacks: Configs, stack: str) -> None:
    assert {"addon", "kong", "echo"} <= stacks[stack]["services"].keys()


@pytest.mark.parametrize(
    ("stack", "missing"),
    [*((stack, "MOESIF_APPLICATION_ID") for stack in FEEDING_MOESIF), ("debug", "MITMWEB_PASSWORD")],
)
@pytest.mark.parametrize("given", [{}, {"empty": ""}], ids=["unset", "empty"])
def test_what_must_be_set_is_asked_for(stack: str, missing: str, given: dict[str, str]) -> None:
    rest = {name: value for name, value in REQUIRED.items() if name != missing}
    told = compose_config(stack, {**rest, **({missing: ""} if given else {})})
    assert told.returncode != 0
    assert missing in told.stderr
    assert re.search("set it to|choose", told.stderr)


@pytest.mark.parametrize("stack", STACKS)
def test_only_the_ports_meant_are_open(stacks: Configs, stack: str) -> None:
    assert published(stacks[stack]) == OPEN[stack]


@pytest.mark.parametrize("stack", STACKS)
def test_every_container_is_hardened(stacks: Configs, stack: str) -> None:
    for name, service in stacks[stack]["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"} & service.keys(), name


@pytest.mark.parametrize("stack", STACKS)
def test_images_are_ours_or_of_one_version(stacks: Configs, stack: str) -> None:
    for name, service in stacks[stack]["services"].items():
        if "build" in service:
            assert service["build"]["dockerfile"] == "compose/Dockerfile", name
        elif name.startswith("kong"):
            assert service["image"] == "kong:3.9.3", name
        else:
            assert re.fullmatch(r"postgres:16-\w+", service["image"]), name


@pytest.mark.parametrize("stack", STACKS)
def test_what_is_mounted_is_there_and_not_written_to(stacks: Configs, stack: str) -> None:
    for name, service in stacks[stack]["services"].items():
        for volume in service.get("volumes", ()):
            source, target, mode = volume.split(":")
            if source.startswith("/"):
                assert mode == "ro", f"{name}: {volume}"
                assert (COMPOSE / source.rpartition("/")[2]).is_file(), f"{name}: {volume}"
            else:
                assert source in stacks[stack]["volumes"], f"{name}: {volume}"
                assert (name, target) in {("addon", "/var/lib/moesif"), ("postgres", "/var/lib/postgresql/data")}


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_starts_before_what_it_needs_is_ready(stacks: Configs, stack: str) -> None:
    services = stacks[stack]["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert services[needed]["restart"] == "on-failure", f"{name} waits for {needed}"
            else:
                assert how["condition"] == "service_healthy", f"{name} waits for {needed}"
                # our image has a HEALTHCHECK of its own
                assert "healthcheck" in services[needed] or "build" in services[needed], f"{name} waits for {needed}"
    assert services["kong"]["healthcheck"]["test"] == ["CMD", "kong", "health"]


@pytest.mark.parametrize("stack", STACKS)
def test_the_addon_starts_with_these_settings_and_may_drain(stacks: Configs, stack: str) -> None:
    addon = stacks[stack]["services"]["addon"]
    settings = settings_of(addon)
    assert settings.position == ("behind" if stack == "behind" else "front")
    drain = 0 if "entrypoint" in addon else parse(addon["command"]).drain_timeout
    assert drain + settings.shutdown_timeout / 1000 < seconds(addon["stop_grace_period"])
    assert "apikey" in settings.request_header_masks
    assert "apikey" in settings.request_query_masks


@pytest.mark.parametrize("stack", STACKS)
def test_the_spool_is_on_a_volume_and_everything_else_in_memory(stacks: Configs, stack: str) -> None:
    """A named one: an empty one takes owner and mode from the image's folder, a folder of the machine would not."""
    addon = stacks[stack]["services"]["addon"]
    (volume,) = [volume for volume in addon["volumes"] if not volume.endswith(":ro")]
    name, _, path = volume.partition(":")
    assert name in stacks[stack]["volumes"]
    assert [path.removesuffix(":rw")] == arguments_of("VOLUME")
    assert addon["tmpfs"] == ["/tmp"]


@pytest.mark.parametrize("stack", STACKS)
def test_health_is_asked_of_the_addon_on_loopback(stacks: Configs, stack: str) -> None:
    addon = stacks[stack]["services"]["addon"]
    assert "healthcheck" not in addon, "the image's own"
    address = Address.parse(settings_of(addon).admin_listen or "")
    assert address.is_loopback
    assert address.port not in {port.target for port in published(stacks[stack])}
    for name, service in stacks[stack]["services"].items():
        assert name == "addon" or "MOESIF_ADMIN_LISTEN" not in environment(service), "there is nothing to ask"


@pytest.mark.parametrize("stack", FEEDING_MOESIF)
def test_the_application_id_is_passed_on_and_events_go_to_moesif(stacks: Configs, stack: str) -> None:
    settings = settings_of(stacks[stack]["services"]["addon"])
    assert settings.application_id.get_secret_value() == REQUIRED["MOESIF_APPLICATION_ID"]
    assert settings.api_endpoint == Settings.model_fields["api_endpoint"].default


def test_debugging_keeps_events_on_this_machine_unless_told(stacks: Configs) -> None:
    config = stacks["debug"]
    endpoint = urlsplit(settings_of(config["services"]["addon"]).api_endpoint)
    assert resolve(config, "addon", str(endpoint.hostname)) == {("collector", "outside")}
    assert f"0.0.0.0:{endpoint.port}" in config["services"]["collector"]["command"]
    elsewhere = compose_config("debug", {**REQUIRED, "MOESIF_API_ENDPOINT": "https://api.moesif.net"})
    assert settings_of(parsed(elsewhere.stdout)["services"]["addon"]).api_endpoint == "https://api.moesif.net"


def test_debugging_is_mitmweb_behind_a_password(stacks: Configs) -> None:
    addon = stacks["debug"]["services"]["addon"]
    assert addon["entrypoint"] == ["mitmweb"]
    assert f"--set=web_password={REQUIRED['MITMWEB_PASSWORD']}" in addon["command"]


# --- who is where


def upstream_of_addon(config: dict[str, Any]) -> tuple[str, int]:
    command = config["services"]["addon"]["command"]
    reverse = [word.removeprefix("--mode=reverse:") for word in command if word.startswith("--mode=reverse:")]
    url = urlsplit(reverse[0] if reverse else parse(command).upstream or "")
    return str(url.hostname), int(url.port or 0)


def upstreams_of_kong() -> set[tuple[str, int]]:
    return {(service.host, service.port) for service in load_declarative(COMPOSE / "kong.yml").services}


@pytest.mark.parametrize("stack", ["front", "debug", "kong-postgres"])
def test_in_front_the_way_is_addon_kong_echo(stacks: Configs, stack: str) -> None:
    config = stacks[stack]
    host, port = upstream_of_addon(config)
    assert resolve(config, "addon", host) == {("kong", "inside")}
    assert config["services"]["kong"]["environment"]["KONG_PROXY_LISTEN"] == f"0.0.0.0:{port}"
    ((host, port),) = upstreams_of_kong()
    assert resolve(config, "kong", host) == {("echo", "inside")}
    assert config["services"]["echo"]["command"] == [f"0.0.0.0:{port}"]


def test_behind_the_way_is_kong_addon_echo(stacks: Configs) -> None:
    config = stacks["behind"]
    ((host, port),) = upstreams_of_kong()
    assert resolve(config, "kong", host) == {("addon", "inside")}
    arguments = parse(config["services"]["addon"]["command"])
    assert arguments.listen.port == port
    assert not arguments.forwarded, "Kong has set X-Forwarded-* already"
    host, port = upstream_of_addon(config)
    assert resolve(config, "addon", host) == {("echo", "inside")}
    assert config["services"]["echo"]["command"] == [f"0.0.0.0:{port}"]


@pytest.mark.parametrize("stack", STACKS)
def test_the_echo_is_reached_from_inside_alone(stacks: Configs, stack: str) -> None:
    echo = stacks[stack]["services"]["echo"]
    assert list(networks(echo)) == ["inside"]
    assert "ports" not in echo


@pytest.mark.parametrize("stack", ["front", "debug", "kong-postgres"])
def test_in_front_kong_believes_the_addon_alone_about_the_client(stacks: Configs, stack: str) -> None:
    if stack != "debug":
        assert parse(stacks[stack]["services"]["addon"]["command"]).forwarded
    kong = environment(stacks[stack]["services"]["kong"])
    assert kong["KONG_TRUSTED_IPS"] == inside(stacks[stack])
    assert kong["KONG_REAL_IP_HEADER"] == "X-Forwarded-For"
    assert kong["KONG_REAL_IP_RECURSIVE"] == "on"


def test_behind_the_addon_believes_kong_alone(stacks: Configs) -> None:
    config = stacks["behind"]
    assert settings_of(config["services"]["addon"]).trusted_ips == (inside(config),)
    assert "KONG_TRUSTED_IPS" not in config["services"]["kong"]["environment"]


def test_no_two_stacks_want_the_same_addresses(stacks: Configs) -> None:
    assert len({inside(config) for config in stacks.values()}) == len(STACKS)


# --- Kong


@pytest.mark.parametrize("stack", ["front", "behind", "debug"])
def test_kong_without_a_database_reads_the_file_that_is_mounted(stacks: Configs, stack: str) -> None:
    kong = stacks[stack]["services"]["kong"]
    assert kong["environment"]["KONG_DATABASE"] == "off"
    mounted = [volume.split(":")[1] for volume in kong["volumes"] if "/kong.yml:" in volume]
    assert mounted == [kong["environment"]["KONG_DECLARATIVE_CONFIG"]]
    assert "KONG_ADMIN_LISTEN" not in kong["environment"]


@pytest.mark.parametrize("stack", ["front", "behind", "debug"])
def test_the_addon_reads_the_file_that_kong_reads(stacks: Configs, stack: str) -> None:
    addon, kong = (stacks[stack]["services"][name] for name in ("addon", "kong"))
    path = settings_of(addon).kong_config
    assert mounts(addon)[str(path)] == mounts(kong)[kong["environment"]["KONG_DECLARATIVE_CONFIG"]]
    resolver = Resolver(load_declarative(Path(mounts(addon)[str(path)])), {})
    assert not resolver.has_instances, "Kong refuses a file with plugins that it does not have"
    match = resolver.scopes.router.match("GET", "/orders/7", "localhost:8000", {})
    assert scoping_names(match) == {"service_name": "orders", "route_name": "orders"}


def test_with_postgres_the_addon_asks_kong(stacks: Configs) -> None:
    config = stacks["kong-postgres"]
    settings = settings_of(config["services"]["addon"])
    assert settings.kong_config is None
    url = urlsplit(settings.kong_admin_url or "")
    assert resolve(config, "addon", str(url.hostname)) == {("kong", "inside")}
    assert config["services"]["kong"]["environment"]["KONG_ADMIN_LISTEN"] == f"0.0.0.0:{url.port}"
    assert "kong" in config["services"]["addon"]["depends_on"], "it does not start while Kong is not there"


def test_kong_with_postgres_is_migrated_then_filled_then_started(stacks: Configs) -> None:
    services = stacks["kong-postgres"]["services"]
    waits = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert waits["kong-migrations"] == {"postgres"}
    assert waits["kong-import"] == {"kong-migrations"}
    assert "kong-import" in waits["kong"]
    assert "kong migrations bootstrap" in services["kong-migrations"]["command"][-1]
    *importing, file = services["kong-import"]["command"]
    assert importing == ["kong", "config", "db_import"]
    assert any(volume.endswith(f"/kong.yml:{file}:ro") for volume in services["kong-import"]["volumes"])


def test_all_of_kong_finds_the_same_database(stacks: Configs) -> None:
    services = stacks["kong-postgres"]["services"]
    postgres = environment(services["postgres"])
    for name in ("kong", "kong-migrations", "kong-import"):
        kong = environment(services[name])
        assert kong["KONG_DATABASE"] == "postgres", name
        assert resolve(stacks["kong-postgres"], name, kong["KONG_PG_HOST"]) == {("postgres", "inside")}, name
        for mine, its in (("DATABASE", "DB"), ("USER", "USER"), ("PASSWORD", "PASSWORD")):
            assert kong[f"KONG_PG_{mine}"] == postgres[f"POSTGRES_{its}"], name


# --- what the comments promise


@pytest.mark.parametrize("stack", STACKS)
def test_the_command_in_the_comment_starts_this_stack(stack: str) -> None:
    (command,) = re.findall(r"^  (.*docker compose .*)$", leading_comment(COMPOSE / f"{stack}.yml"), re.MULTILINE)
    *assigned, rest = re.split(r"(?=docker compose)", command)
    words = shlex.split(rest)
    assert words == ["docker", "compose", "-p", words[3], "-f", f"compose/{stack}.yml", "up", "--build", "--wait"]
    names = {word.partition("=")[0] for word in shlex.split("".join(assigned))}
    assert compose_config(stack, {name: REQUIRED[name] for name in names}).returncode == 0


def test_no_two_stacks_have_the_same_project() -> None:
    projects = [re.findall(r"docker compose -p (\S+)", leading_comment(COMPOSE / f"{stack}.yml")) for stack in STACKS]
    assert len({name for names in projects for name in names}) == len(STACKS)


@pytest.mark.parametrize("stack", STACKS)
def test_the_curl_in_the_comment_is_answered(stack: str) -> None:
    """It goes to a port that is open, on a route that Kong has, with a key that Kong knows."""
    kong = load_declarative(COMPOSE / "kong.yml")
    keys = [
        key["key"]
        for consumer in parsed((COMPOSE / "kong.yml").read_text())["consumers"]
        for key in consumer.get("keyauth_credentials", ())
    ]
    (line,) = re.findall(r"^  (curl .*)$", leading_comment(COMPOSE / f"{stack}.yml"), re.MULTILINE)
    _, _, url, _, header = shlex.split(line.split(";")[0])
    called = urlsplit(url)
    assert called.port in {port.port for port in OPEN[stack]}
    match = Router(kong.routes).match("GET", called.path, called.netloc, {})
    assert match is not None
    assert match.service is not None
    assert header in [f"apikey: {key}" for key in keys]


def test_addresses_in_the_comments_are_open() -> None:
    for stack in STACKS:
        named = re.findall(r"http://localhost:(\d+)", leading_comment(COMPOSE / f"{stack}.yml"))
        assert {int(port) for port in named} <= {port.port for port in OPEN[stack]}, stack

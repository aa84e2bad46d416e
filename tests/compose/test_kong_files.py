"""The Kong files: what Kong takes, by a strict model of the part of its format that is used, and by the addon's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mitmproxy_moesif.kong.declarative import KongConfigError, parse_declarative
from mitmproxy_moesif.kong.resolver import Resolver
from tests.compose.tools import COMPOSE, fenced, parsed

Texts = Annotated[list[str], Field(min_length=1)]


class Strict(BaseModel):
    """No field that is not named here, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class KeyAuthConfig(Strict):
    key_names: Texts
    hide_credentials: bool = False
    anonymous: str | None = None


class KeyAuth(Strict):
    name: Literal["key-auth"]
    config: KeyAuthConfig


class FunctionConfig(Strict):
    header_filter: Texts


class PostFunction(Strict):
    name: Literal["post-function"]
    config: FunctionConfig


Plugin = Annotated[KeyAuth | PostFunction, Field(discriminator="name")]


class Route(Strict):
    name: str
    paths: Texts


class Service(Strict):
    name: str
    url: Annotated[str, Field(pattern=r"^http://[a-z0-9.-]+:\d+$")]
    routes: Annotated[list[Route], Field(min_length=1)]
    plugins: list[Plugin] = []


class Credential(Strict):
    key: str


class Consumer(Strict):
    username: str
    custom_id: str | None = None
    keyauth_credentials: list[Credential] = []


class KongFile(Strict):
    format_version: Literal["3.0"] = Field(alias="_format_version")
    services: list[Service] = []
    consumers: list[Consumer] = []
    plugins: list[Plugin] = []


MOESIF = "name: moesif"


def kong_files() -> dict[str, str]:
    """Every Kong configuration in the folder: files of their own, inside Helm values, and in documents."""
    values = parsed((COMPOSE / "kubernetes" / "kong-dbless-values.yml").read_text())
    found = {"kong.yml": (COMPOSE / "kong.yml").read_text(), "kong-dbless-values.yml": values["dblessConfig"]["config"]}
    for document in sorted(COMPOSE.glob("*.md")):
        blocks = [block for block in fenced(document, "yaml") if "_format_version" in block and MOESIF not in block]
        found |= {f"{document.name}[{position}]": block for position, block in enumerate(blocks)}
    return found


@pytest.mark.parametrize(("name", "text"), kong_files().items(), ids=kong_files())
def test_kong_takes_it(name: str, text: str) -> None:
    KongFile.model_validate(parsed(text))
    assert parse_declarative(text.encode(), name).version == "3.0"


def test_the_example_in_the_document_is_among_them() -> None:
    assert any(name.startswith("from-kong-plugin.md") for name in kong_files())


def merged(*texts: str) -> bytes:
    """As `deck file merge`: lists are put together, of everything else the last counts."""
    result: dict[str, Any] = {}
    for name, value in (item for text in texts for item in parsed(text).items()):
        result[name] = result.get(name, []) + value if isinstance(value, list) else value
    return json.dumps(result).encode()


def test_the_plugins_entries_in_the_document_apply_as_it_says() -> None:
    (entries,) = [block for block in fenced(COMPOSE / "from-kong-plugin.md", "yaml") if MOESIF in block]
    with pytest.raises(KongConfigError):
        parse_declarative(entries.encode(), "moesif.yml")  # alone, its services are nobody's
    config = parse_declarative(merged((COMPOSE / "kong.yml").read_text(), entries), "addon.yml")
    resolver = Resolver(config, {})
    consumers = {consumer.username: consumer for consumer in config.consumers}

    def why(path: str, consumer: str) -> str:
        text: str = resolver.scopes.explain("GET", "localhost:8000", path, consumer=consumers[consumer])["why"]
        return text

    assert why("/orders/7", "guest") == 'service "orders"'
    assert why("/orders/7", "ada").startswith('service "orders" + consumer "ada" (more specific than: service')
    assert why("/catalogue", "ada").startswith("none of the 2")
    settings = [instance.settings for instance in resolver.instances.values()]
    assert [one.request_body_masks for one in settings] == [("password",), ()]
    assert [one.disable_capture_request_body for one in settings] == [False, True]
    assert {one.application_id.get_secret_value() for one in settings} == {"YOUR_ID"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("key_names:", "key_name:"),
        ("hide_credentials: true", "hide_credentials: 'true'"),
        ("      - name: orders\n", "      - names: orders\n"),
        ("keyauth_credentials", "keyauth_credential"),
        ('"3.0"', "3.0"),
        ("name: key-auth", "name: keyauth"),
    ],
)
def test_a_mistake_would_be_seen(right: str, wrong: str) -> None:
    text = (COMPOSE / "kong.yml").read_text()
    assert right in text
    with pytest.raises(ValidationError):
        KongFile.model_validate(parsed(text.replace(right, wrong)))


def test_no_client_can_name_a_consumer_by_itself() -> None:
    """Only an authentication plugin clears or sets X-Consumer-*; without one, what the client sends gets through."""
    file = KongFile.model_validate(parsed((COMPOSE / "kong.yml").read_text()))
    usernames = {consumer.username for consumer in file.consumers}
    for service in file.services:
        (key_auth,) = [plugin for plugin in service.plugins if isinstance(plugin, KeyAuth)]
        assert key_auth.config.hide_credentials
        assert key_auth.config.anonymous is None or key_auth.config.anonymous in usernames


def test_one_service_wants_a_key_and_one_is_open() -> None:
    file = KongFile.model_validate(parsed((COMPOSE / "kong.yml").read_text()))
    anonymous: list[Any] = [plugin.config.anonymous for service in file.services for plugin in service.plugins]  # type: ignore[union-attr]
    assert sorted(anonymous, key=str) == [None, "guest"]


def test_kong_files_are_all_known() -> None:
    """A file that is added is checked by one of the tests."""
    files = {str(path.relative_to(COMPOSE)) for path in COMPOSE.rglob("*.yml")}
    stacks = {
        f"{name}.yml"
        for name in ("front", "behind", "akto", "debug", "kafka", "kong-postgres", "observability", "services")
    }
    kubernetes = {f"kubernetes/{name}.yml" for name in ("front", "secret")}
    values = {f"kubernetes/kong-{name}-values.yml" for name in ("front", "behind", "dbless")}
    observability = {f"observability/{name}.yml" for name in ("dashboards", "grafana", "prometheus", "rules")}
    values |= {"kubernetes/akto-values.yml"}
    assert files == {"kong.yml"} | stacks | kubernetes | values | observability
    assert Path(COMPOSE / "konnect.md").is_file()

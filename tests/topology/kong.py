"""What Kong is configured with, as far as it shows in messages: routes of one service, consumers, their keys."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support import wire
from tests.support.upstream import Connection, RawRequest

VERSION = "3.9.3"


@dataclass(frozen=True)
class Consumer:
    """Kong demands a username or a custom_id; its ids are UUIDs."""

    username: str | None = None
    custom_id: str | None = None
    keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"consumer/{self.username}/{self.custom_id}"))


def credential_id(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"key/{key}"))


@dataclass(frozen=True)
class KeyAuth:
    """The key is taken from the header or the query parameter `apikey`. `anonymous`: who a call without one is."""

    hide_credentials: bool = False
    anonymous: Consumer | None = None


@dataclass(frozen=True)
class Route:
    """One path as a prefix; `host` None: any. `limited`: rate-limiting lets one request pass in a minute."""

    path: str
    host: str | None = None
    strip_path: bool = True
    preserve_host: bool = False
    key_auth: KeyAuth | None = None
    limited: bool = False


@dataclass(frozen=True)
class KongConfiguration:
    routes: tuple[Route, ...]
    consumers: tuple[Consumer, ...] = ()


def declared(path: Path) -> KongConfiguration:
    """What a declarative file like that of the stacks says."""
    document = YAML(typ="safe", pure=True).load(path)
    consumers = {
        entry["username"]: Consumer(
            entry["username"],
            entry.get("custom_id"),
            tuple(credential["key"] for credential in entry.get("keyauth_credentials", ())),
        )
        for entry in document["consumers"]
    }
    return KongConfiguration(
        tuple(
            Route(path, strip_path=route.get("strip_path", True), key_auth=_key_auth(service, consumers))
            for service in document["services"]
            for route in service["routes"]
            for path in route["paths"]
        ),
        tuple(consumers.values()),
    )


def _key_auth(service: dict[str, Any], consumers: dict[str, Consumer]) -> KeyAuth | None:
    for plugin in service.get("plugins", ()):
        assert plugin["name"] == "key-auth", f"{plugin['name']} is a plugin that nginx cannot stand in for"
        assert plugin["config"]["key_names"] == ["apikey"]
        anonymous = plugin["config"].get("anonymous")
        return KeyAuth(plugin["config"].get("hide_credentials", False), consumers[anonymous] if anonymous else None)
    return None


# Reason, message and headers of the answers that Kong makes itself, by nginx's name for the case.
_OWN: dict[str, tuple[int, str, str, tuple[tuple[str, str], ...]]] = {
    "no_route": (404, "Not Found", "no Route matched with those values", ()),
    "no_key": (401, "Unauthorized", "No API key found in request", (("WWW-Authenticate", "Key"),)),
    "bad_key": (401, "Unauthorized", "Unauthorized", (("WWW-Authenticate", "Key"),)),
    "limited": (
        429,
        "Too Many Requests",
        "API rate limit exceeded",
        (("RateLimit-Limit", "1"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "60"), ("Retry-After", "60")),
    ),
}


def kong_itself(request: RawRequest, connection: Connection) -> None:
    """The answers that Kong makes itself. nginx decides on them but cannot write their `Server: kong/...`."""
    status, reason, message, headers = _OWN[request.path.removeprefix("/")]
    body = json.dumps({"message": message, "request_id": request.get("x-kong-request-id")}, indent=2)
    content = wire.response(
        status,
        [("Content-Type", "application/json; charset=utf-8"), ("Server", f"kong/{VERSION}"), *headers],
        body,
        reason=reason,
    )
    connection.send(content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == "HEAD" else content)

"""Reads what is in compose/: YAML files, Compose's own view of a stack, Dockerfile instructions, code in documents.

Where a program is missing, the test fails with a line that says how to get it: a check that nobody runs is none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import REPOSITORY
from tests.support.ports import free_port

COMPOSE = REPOSITORY / "compose"
STACKS = ("front", "behind", "debug", "kong-postgres")
FEEDING_MOESIF = ("front", "behind", "kong-postgres")
REQUIRED = {"MOESIF_APPLICATION_ID": "an-application-id", "MITMWEB_PASSWORD": "a-password"}
YAML_FILES = sorted(COMPOSE.rglob("*.yml"))

SCRIPT_SECONDS = 2
"""How long healthcheck.py waits for each of its two answers."""

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def program(name: str, how_to_install: str) -> str:
    """The path of a program, of this environment or of the machine. Fails the test where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.fail(f"{name} is needed for this test: {how_to_install}")
    return found


def compose_config(stack: str, environment: dict[str, str], *over: str) -> subprocess.CompletedProcess[str]:
    """What `docker-compose config` makes of a stack, with what is laid over it, and nothing of this machine's
    environment in it."""
    command = [
        program("docker-compose", "apt-get install docker-compose"),
        *(word for file in (stack, *over) for word in ("-f", str(COMPOSE / f"{file}.yml"))),
        "config",
    ]
    given = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run(command, env=given, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def parsed(text: str, version: tuple[int, int] = (1, 2)) -> Any:
    """The only document in `text`."""
    (document,) = all_parsed(text, version)
    return document


def all_parsed(text: str, version: tuple[int, int] = (1, 2)) -> list[Any]:
    """The documents in `text`, read as YAML of `version`: 1.1 has `yes`, `off` and 22:30 as values of other types."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return list(yaml.load_all(text))


@dataclass(frozen=True)
class Published:
    """A port that a stack opens on the machine. `address` is None for all of its addresses."""

    service: str
    address: str | None
    port: int
    target: int


def published(config: dict[str, Any]) -> set[Published]:
    return {_published(name, port) for name, service in config["services"].items() for port in service.get("ports", ())}


def _published(service: str, port: str | dict[str, Any]) -> Published:
    if isinstance(port, dict):
        return Published(service, port.get("host_ip"), int(port["published"]), int(port["target"]))
    *address, outer, inner = port.removesuffix("/tcp").split(":")
    return Published(service, ":".join(address) or None, int(outer), int(inner))


def networks(service: dict[str, Any]) -> dict[str, Any]:
    given = service.get("networks", {})
    return dict.fromkeys(given) if isinstance(given, list) else given


def resolve(config: dict[str, Any], asking: str, host: str) -> set[tuple[str, str]]:
    """Which services, over which networks, answer to `host` when the service `asking` looks it up."""
    reachable = networks(config["services"][asking])
    return {
        (name, network)
        for name, service in config["services"].items()
        for network, options in networks(service).items()
        if network in reachable and host in (name, *((options or {}).get("aliases", ())))
    }


def environment(service: dict[str, Any]) -> dict[str, str]:
    """The variables that have a value."""
    return {name: str(value) for name, value in service.get("environment", {}).items() if value is not None}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What is mounted read-only from this machine, by its path in the container."""
    found = [volume.removesuffix(":ro").split(":") for volume in service.get("volumes", ()) if volume.endswith(":ro")]
    return {inside: outside for outside, inside in found}


def loopback_environment(service: dict[str, Any]) -> dict[str, str]:
    """`environment` as it holds without a container: mounted files at their own paths, another port to listen at."""
    paths = mounts(service)
    given = {name: paths.get(value, value) for name, value in environment(service).items()}
    return {**given, "MOESIF_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}


def seconds(duration: str) -> float:
    """Compose's `1m30s`."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def size(quantity: str) -> int:
    """Kubernetes' `640Mi`, in bytes."""
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    factor: int = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
    return int(number) * factor


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, comments left out and continued lines joined."""
    lines = (line for line in (COMPOSE / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def arguments_of(instruction: str) -> list[str]:
    """The arguments of each such instruction of the image itself: of the last stage."""
    listed = instructions()
    last = max(position for position, (name, _) in enumerate(listed) if name == "FROM")
    return [arguments for name, arguments in listed[last:] if name == instruction]


def exec_form(instruction: str) -> list[str]:
    """The words of an instruction that is given once, in exec form."""
    (given,) = arguments_of(instruction)
    words: list[str] = json.loads(given)
    return words


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for given in arguments_of("ENV") for pair in given.split())


def fenced(document: Path, language: str) -> list[str]:
    """The blocks of code of that language in a Markdown file, indented ones too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


def leading_comment(path: Path) -> str:
    """The comment that a file starts with, without its marks."""
    lines = path.read_text().splitlines()
    end = next(position for position, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])

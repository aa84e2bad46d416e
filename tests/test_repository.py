"""What is written down in several files says the same: Makefile, workflow, pre-commit, versions, paths."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
from ruamel.yaml import YAML

from mitmproxy_moesif.speedups.versions import TESTED
from tests.support import REPOSITORY

WORKFLOW = ".github/workflows/ci.yml"
CONTRIBUTING = REPOSITORY / ".github" / "CONTRIBUTING.md"
MAKEFILE = (REPOSITORY / "Makefile").read_text()

_PATH = re.compile(r"(?<![\w./-])(?:(?:\.ci|\.github|addon|tests)/[\w./-]*|[A-Z]+\.md)")


def parsed(path: str) -> Any:
    return YAML(typ="safe").load(REPOSITORY / path)


def recipes(*targets: str) -> list[list[str]]:
    """The commands that `make` runs for targets, each as its words."""
    found = (re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE) for target in targets)
    lines = [line for match in found if match for line in match[1].replace("$(BIN)", ".venv/bin").splitlines()]
    return [shlex.split(line) for line in lines]


def test_the_workflow_runs_every_supported_python_on_the_oldest_and_the_newest_mitmproxy() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pythons = [found[1] for line in project["classifiers"] if (found := re.search(r"Python :: (3\.\d+)$", line))]
    matrix = parsed(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]
    assert pythons
    assert matrix == {"python": pythons, "mitmproxy": [TESTED[0], TESTED[-1]]}


def test_the_workflow_may_only_read_and_runs_what_anybody_can_run() -> None:
    workflow = parsed(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[-1]["run"] == ".ci/run"
    assert "exec make test" in (REPOSITORY / ".ci" / "run").read_text()
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_dependencies_and_actions_are_looked_at_each_week() -> None:
    updates = parsed(".github/dependabot.yml")["updates"]
    assert {one["package-ecosystem"]: one["schedule"]["interval"] for one in updates} == {
        "pip": "weekly",
        "github-actions": "weekly",
    }


def test_before_a_commit_the_same_runs_as_make_lint_types() -> None:
    (local,) = parsed(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [shlex.split(hook["entry"]) for hook in local["hooks"]] == recipes("lint", "types")
    for hook in local["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)


def test_what_the_guide_for_contributors_names_exists() -> None:
    named = {path.rstrip(".") for path in _PATH.findall(CONTRIBUTING.read_text())}
    assert {"addon/README.md", ".ci/run", WORKFLOW} <= named
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_make_tells_what_can_be_made(arguments: list[str]) -> None:
    command = ["make", "--no-print-directory", *arguments]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    named = re.sub(r"\$\(.*?\)", "", phony).split()  # not the steps of test-engines
    assert [line.split()[1] for line in told.splitlines()] == named
    assert all(len(line.split()) > 2 for line in told.splitlines())


@pytest.mark.parametrize("name", ["traffic.png", "mitmweb.png"])
def test_pictures_are_small(name: str) -> None:
    """`make pictures` makes them."""
    picture = (REPOSITORY / ".github" / "images" / name).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000

"""Which room may import which: the contracts of `[tool.importlinter]` in pyproject.toml, and the picture of them."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from itertools import pairwise
from typing import Any

import grimp
import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

from tests.support import REPOSITORY

configure()
CONFIGURATION = REPOSITORY / "pyproject.toml"
CONTRACTS: dict[str, dict[str, Any]] = {
    contract["id"]: contract
    for contract in tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
}
NOT_DRAWN = ("backoff", "config", "interrupts", "web", "log", "mitmproxy_moesif", "standard_streams")
"""What every room may import."""


def broken(contract: str) -> str | None:
    """What import-linter prints of a contract that is not kept."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        kept = lint_imports(config_filename=str(CONFIGURATION), limit_to_contracts=(contract,), cache_dir=None)
    return None if kept else printed.getvalue()


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_contract_is_kept(contract: str) -> None:
    found = broken(contract)
    assert found is None, found


@pytest.mark.parametrize(
    ("contract", "importer", "imported"),
    [
        ("rooms", "log", "addon"),
        ("rooms", "governance", "kong"),
        ("mitmproxy", "delivery.sender", "mitmproxy"),
        ("beside", "workers.supervisor", "mitmproxy"),
        ("pure", "event.build", "threading"),
    ],
)
def test_an_import_against_it_is_found(
    monkeypatch: pytest.MonkeyPatch, contract: str, importer: str, imported: str
) -> None:
    build = grimp.build_graph

    def with_one_more(*args: Any, **kwargs: Any) -> grimp.ImportGraph:
        graph = build(*args, **kwargs)
        ours = f"mitmproxy_moesif.{imported}"
        graph.add_import(importer=f"mitmproxy_moesif.{importer}", imported=ours if ours in graph.modules else imported)
        return graph

    monkeypatch.setattr(grimp, "build_graph", with_one_more)
    found = broken(contract)
    assert found is not None
    assert importer in found


def test_every_arrow_is_in_the_picture_or_follows_from_it() -> None:
    """What the contract lists as an exception is not drawn."""
    graph = grimp.build_graph("mitmproxy_moesif")
    ignored = {tuple(one.split(" -> ")) for one in CONTRACTS["rooms"].get("ignore_imports", [])}
    found = {
        (room(importer), room(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if (importer, imported) not in ignored
    }
    missing = {(above, below) for above, below in found if below not in reached_from(above) | {above, *NOT_DRAWN}}
    assert not missing


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def reached_from(start: str) -> set[str]:
    """The rooms that arrows of the picture lead to."""
    page = (REPOSITORY / "addon" / "README.md").read_text()
    picture = page.split("```mermaid")[1].split("```")[0].splitlines()
    arrows = set()
    for line in picture:
        steps = [step.strip().split(" & ") for step in re.split(r"--(?: \w+ --)?>", line)]
        arrows |= {(one, other) for above, below in pairwise(steps) for one in above for other in below}
    reached, wanted = set[str](), {start}
    while wanted:
        reached |= wanted
        wanted = {below for above, below in arrows if above in reached} - reached
    return reached - {start}

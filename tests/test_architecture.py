"""Which room may import which: the contracts of `[tool.importlinter]` in pyproject.toml."""

from __future__ import annotations

import contextlib
import io
import tomllib
from typing import Any

import grimp
import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

from tests.support import REPOSITORY

configure()
CONFIGURATION = REPOSITORY / "pyproject.toml"


CONTRACTS = [
    str(contract["id"]) for contract in tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
]


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

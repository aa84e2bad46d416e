"""The pages name what exists: files, functions, links, metrics and the causes of drops."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mitmproxy_moesif.admin.metrics import FAULTS, exposition
from mitmproxy_moesif.admin.source import Status
from mitmproxy_moesif.capture.traffic import Traffic
from mitmproxy_moesif.config.user_hooks import NAMES as HOOKS
from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "addon" / "mitmproxy_moesif"
ARCHITECTURE = REPOSITORY / "addon" / "README.md"
PAGES = [
    REPOSITORY / "README.md",
    ARCHITECTURE,
    REPOSITORY / "tests" / "README.md",
    *(REPOSITORY / "compose").glob("*.md"),
]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
WHERE_PATHS_BEGIN = (REPOSITORY, PACKAGE)
TRAFFIC = Traffic()
TRAFFIC.expect(["options"])
EVERYTHING = Status(
    version="1",
    uptime=1.0,
    captured=1,
    recovered=0,
    delivered=0,
    waiting={"memory": 1, "disk": 0},
    dropped={"refused": 0},
    excluded=0,
    engines={"fast": 1, "mitmproxy": 1},
    faults={"sender": 0},
    oldest_waiting=1.0,
    destinations={"1": {"state": "up"}},
    unsent={},
    traffic=TRAFFIC.reading(),
    spool={"state": "on", "bytes": 1, "max_bytes": 2},
    workers={"ready": 1, "wanted": 2, "restarts": 0},
    receivers={"akto@h": {"captured": 1, "delivered": 0, "waiting": 0, "dropped": {"refused": 1}}},
)


def named_paths(page: Path) -> Iterator[tuple[str, str]]:
    """Each `path` and `path.py:Name` in code, as path and name."""
    for code in re.findall(r"`([^`\n]+)`", page.read_text()):
        if found := re.fullmatch(r"((?:[\w.-]+/)*[\w.-]+\.py|(?:[\w.-]+/)+)(?::([\w.]+))?", code):
            yield found[1], found[2] or ""


def located(path: str) -> Path | None:
    return next((root / path for root in WHERE_PATHS_BEGIN if (root / path).exists()), None)


@cache
def defined_in(module: Path) -> frozenset[str]:
    """Functions, classes, methods (`Class.method`) and constants of a module."""
    return frozenset(_defined(ast.parse(module.read_text()).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(statement.body, f"{prefix}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


@pytest.mark.parametrize("page", [ARCHITECTURE, REPOSITORY / "tests" / "README.md"], ids=lambda page: page.parent.name)
def test_every_file_and_function_that_a_page_names_exists(page: Path) -> None:
    named = set(named_paths(page))
    assert len(named) > 10
    missing = {path for path, _ in named if located(path) is None}
    assert not missing
    for path, name in named:
        module = located(path)
        assert not name or (module is not None and name in defined_in(module)), f"{path}:{name}"


def test_the_architecture_page_names_every_room() -> None:
    rooms = {f"{init.parent.relative_to(PACKAGE)}/" for init in PACKAGE.rglob("*/__init__.py")}
    assert rooms <= {path for path, _ in named_paths(ARCHITECTURE)}


@pytest.mark.parametrize(
    "init", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda init: str(init.parent.relative_to(PACKAGE))
)
def test_a_room_says_what_each_of_its_modules_is_for(init: Path) -> None:
    """And which test covers a module that has no test file of its own."""
    said = dict(re.findall(r"^ *(\w+) {2,}(.+)$", ast.get_docstring(ast.parse(init.read_text())) or "", re.MULTILINE))
    assert said.keys() == {module.stem for module in init.parent.glob("*.py") if module != init}
    room = init.parent.relative_to(PACKAGE)
    for module, text in said.items():
        tests = re.findall(r"[\w/]+\.py", text.partition("(test")[2]) or [f"{room}/test_{module}.py"]
        for test in tests:
            assert (REPOSITORY / "tests" / test).exists(), f"{room}/{module}.py: {test}"


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 2000


def test_every_cause_of_drops_is_in_the_readme() -> None:
    table = (REPOSITORY / "README.md").read_text().partition("| dropped because |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    modules = [
        ast.parse(module.read_text())
        for room in ("delivery", "event", "forward", "workers")
        for module in (PACKAGE / room).rglob("*.py")
    ]
    nodes = [node for module in modules for node in ast.walk(module)]
    written = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert told <= written
    assert set(counted_causes(nodes)) <= told


def counted_causes(nodes: list[ast.AST]) -> Iterator[str]:
    """Literals that are given to what counts drops, and the reasons for no event."""
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr=method), args=arguments) if re.search(
                "drop|lose|abandon|refuse", method
            ):
                yield from (
                    one.value for one in arguments if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )
            case ast.Call(func=ast.Name(id="Counter"), args=[ast.Dict(keys=keys)]):
                yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
            case ast.Subscript(value=ast.Attribute(attr="_turned_away"), slice=ast.Constant(value=str(cause))):
                yield cause
            case ast.FunctionDef(name="_full"):
                yield from re.findall(r"'(queue_\w+)'", ast.unparse(node))
            case ast.ClassDef(name="NotSent", body=body):
                yield from (
                    str(one.value.value)
                    for one in body
                    if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)
                )


def test_every_kind_of_fault_is_known_from_the_start_and_explained() -> None:
    page = (REPOSITORY / "compose" / "METRICS.md").read_text().partition("\n## Faults\n")[2].partition("\n## ")[0]
    told = [kind for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for kind in re.findall(r"`(.*?)`", row)]
    assert sorted(told) == sorted(FAULTS)
    trees = [ast.parse(module.read_text()) for module in PACKAGE.rglob("*.py") if module.parent.name != "local"]
    counted = {kind for tree in trees for node in ast.walk(tree) for kind in kinds_of_faults(node)}
    named = {kind for kind in FAULTS if not kind.startswith("hook ")} | {f"hook {name}" for name in HOOKS}
    assert counted | {f"hook {name}" for name in HOOKS} == named == set(FAULTS)


def kinds_of_faults(node: ast.AST) -> Iterator[str]:
    """Literals that are given to what counts faults, and the hooks of mitmproxy in which every fault is counted."""
    match node:
        case ast.Call(func=ast.Name(id="fault" | "_fault") | ast.Attribute(attr="fault" | "_fault"), args=arguments):
            yield from (str(one.value) for one in arguments[:1] if isinstance(one, ast.Constant))
        case ast.Subscript(value=ast.Attribute(attr="_faults"), slice=ast.Constant(value=str(kind))):
            yield kind
        case ast.FunctionDef(name=name, decorator_list=[ast.Name(id="guarded")]):
            yield name


def test_the_page_of_metrics_has_every_metric_with_its_type_and_meaning() -> None:
    text = exposition(EVERYTHING)[0].decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    meanings = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    page = (REPOSITORY / "compose" / "METRICS.md").read_text()
    rows = re.findall(r"^\| `(moesif_\w+)` \| (\w+) \|(.*?)\| (.*?) \|$", page, re.MULTILINE)
    assert {(name, kind, meaning) for name, kind, _, meaning in rows} == {
        (name, types[name], meanings[name]) for name in types
    }
    samples = {name: " ".join(re.findall(rf"^{name}{{(.*)}} ", text, re.MULTILINE)) for name in types}
    labels = {name: set(re.findall(r'(\w+)="', sample)) for name, sample in samples.items()}
    assert {name: set(re.findall(r"`(\w+)`", cell)) for name, _, cell, _ in rows} == labels


def test_alerts_name_metrics_that_exist() -> None:
    metrics = set(re.findall(r"`(moesif_\w+)`", (REPOSITORY / "compose" / "METRICS.md").read_text()))
    alerts = re.search(r"```promql\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert alerts is not None
    assert set(re.findall(r"moesif_\w+", alerts[1])) <= metrics

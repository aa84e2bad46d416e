"""User hooks that return what they may not: named with the operator's file and line, and the built-in answer holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.pipeline import EventBuilder, NotSent
from mitmproxy_moesif.log import describe
from tests.support.events import an_exchange


def built(folder: Path, source: str) -> tuple[bytes | NotSent, dict[str, str]]:
    """The event, and what was told of hooks at fault."""
    path = folder / "hooks.py"
    path.write_text(source)
    told: dict[str, str] = {}

    def fault(kind: str, error: Exception) -> None:
        told[kind] = describe(error)

    instance = Instance.compile(parse_settings({"application_id": "x", "hooks": str(path)}))
    return EventBuilder(lambda *_: 1, fault)(an_exchange([("X-Consumer-Username", "ada")]), instance), told


@pytest.mark.parametrize(
    ("name", "result", "problem"),
    [
        ("identify_user", "b'bob'", "bytes, not text"),
        ("identify_user", "['bob']", "list, not text"),
        ("identify_user", "True", "bool, not text"),
        ("metadata", "[]", "list, not a dict"),
        ("metadata", "None", "NoneType, not a dict"),
    ],
)
def test_another_result_is_named_and_left_out(name: str, result: str, problem: str, tmp_path: Path) -> None:
    event, told = built(tmp_path, f"\ndef {name}(exchange):\n    return {result}\n")
    assert told == {f"hook {name}": f"{tmp_path / 'hooks.py'}, line 2: {name} returned {problem}"}
    assert isinstance(event, bytes)
    document: dict[str, Any] = json.loads(event)
    assert (document["user_id"], document.get("metadata")) == ("ada", None)


def test_a_mask_without_a_result_drops_the_event(tmp_path: Path) -> None:
    event, told = built(tmp_path, "def mask(event):\n    del event['request']['headers']\n")
    assert event is NotSent.MASK_FAILED
    assert told == {"hook mask": f"{tmp_path / 'hooks.py'}, line 1: mask returned NoneType, not the event"}


def test_a_number_is_text(tmp_path: Path) -> None:
    event, told = built(tmp_path, "def identify_user(exchange):\n    return 42\n")
    assert isinstance(event, bytes)
    assert (json.loads(event)["user_id"], told) == ("42", {})

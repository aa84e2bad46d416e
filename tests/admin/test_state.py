"""The file that keeps changes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.state import StateError, StateFile

VALUES = (
    st.booleans() | st.integers(0, 2**53) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.none()
)
CHANGES = st.dictionaries(st.sampled_from(["enabled", "debug", "batch_size", "api_version"]), VALUES, max_size=4)


@given(changes=st.lists(CHANGES, max_size=4))
def test_what_was_kept_is_read_again(tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    state = StateFile(path)
    expected: dict[str, Any] = {}
    for change in changes:
        with state.adding(change):
            expected |= change
    assert StateFile(path).read() == expected
    assert not expected or [file.name for file in path.parent.iterdir()] == ["state.json"]


def test_only_the_owner_may_read_it_and_no_secret_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"config": {}}')
    path.chmod(0o644)
    with StateFile(path).adding({"application_id": "5ecre7", "debug": True, "enabled": False}):
        pass
    assert json.loads(path.read_text()) == {"enabled": False, "config": {"debug": True}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_that_fails_is_not_kept(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    with pytest.raises(RuntimeError), state.adding({"debug": True}):
        raise RuntimeError
    assert state.kept == {}
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".state.json.{os.getpid()}.new").write_text("half")
    state = StateFile(tmp_path / "state.json")
    with state.adding({"debug": True}):
        pass
    assert state.read() == {"debug": True}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_a_folder_that_is_not_there_is_told_before_the_change(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), StateFile(tmp_path / "none" / "state.json").adding({"debug": True}):
        pytest.fail("the change must not be made")


def test_other_instances_are_kept_beside_the_options(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    with state.adding({"debug": True}):
        pass
    with state.keeping({"plugins": {"p": {"config": {"batch_size": 3}}}, "created": {}}):
        pass
    with state.adding({"enabled": False}):
        pass
    again = StateFile(state.path)
    assert again.read() == {"enabled": False, "debug": True}
    assert again.instances == {"plugins": {"p": {"config": {"batch_size": 3}}}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"plugins": []}', "plugins: must be an object of objects"),
        ('{"created": {"p": 1}}', "created: must be an object of objects"),
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"config": 1}', "must be an object"),
        ('{"debug": true}', "debug: there is nothing of this name"),
    ],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(StateError, match=f"^admin_state: {path}: {why}"):
        StateFile(path).read()


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Is a directory"):
        StateFile(tmp_path).read()

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

from mitmproxy_moesif.admin.source import NotKept
from mitmproxy_moesif.admin.state import StateError, StateFile

VALUES = (
    st.booleans() | st.integers(0, 2**53) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.none()
)
CHANGES = st.dictionaries(st.sampled_from(["enabled", "debug", "batch_size", "api_version"]), VALUES, max_size=4)


def document(values: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in values.items() if name != "enabled"}
    return {"config": config, **({"enabled": values["enabled"]} if "enabled" in values else {})}


@given(changes=st.lists(CHANGES, max_size=4))
def test_what_was_kept_is_read_again(tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    state = StateFile(path)
    for change in changes:
        state.write(document(change))
    assert document(changes[-1] if changes else {}) == {"config": {}, **StateFile(path).read()}
    assert not path.exists() or [file.name for file in path.parent.iterdir()] == ["state.json"]


def test_only_the_owner_may_read_it_and_no_secret_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"config": {}}')
    path.chmod(0o644)
    entry = {"enabled": True, "config": {"application_id": "other-5ecre7", "batch_size": 3}}
    given = {"enabled": False, "config": {"application_id": "5ecre7", "debug": True}}
    StateFile(path).write({**given, "plugins": {"p": entry}, "created": {}})
    assert json.loads(path.read_text()) == {
        "enabled": False,
        "config": {"debug": True},
        "plugins": {"p": {"enabled": True, "config": {"batch_size": 3}, "secrets": ["application_id"]}},
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_document_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.mkdir()
    (path / "x").touch()
    state = StateFile(path)
    for _ in range(2):
        with pytest.raises(NotKept, match=r"^admin_state: cannot be written \(Is a directory\): nothing was changed$"):
            state.write(document({"debug": True}))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(NotKept, match="No such file"):
        StateFile(path / "none" / "state.json").write(document({"debug": True}))


def test_what_a_dead_process_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".state.json.{os.getpid()}.new").write_text("half")
    state = StateFile(tmp_path / "state.json")
    state.write(document({"debug": True}))
    assert state.read() == {"config": {"debug": True}}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_without_a_path_nothing_is_kept() -> None:
    state = StateFile(None)
    state.write(document({"debug": True}))
    assert state.read() == {}


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


def test_a_folder_in_which_no_change_could_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, file = tmp_path / "none" / "state.json", tmp_path / "file" / "state.json"
    with pytest.raises(StateError, match=f"^admin_state: {missing}: the folder {missing.parent} does not exist$"):
        StateFile(missing).read()
    file.parent.touch()
    with pytest.raises(StateError, match=f"^admin_state: {file}: Not a directory$"):
        StateFile(file).read()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write everywhere
    for content in (None, "{}"):
        if content is not None:
            (tmp_path / "state.json").write_text(content)
        with pytest.raises(StateError, match=f"the folder {tmp_path} cannot be written to$"):
            StateFile(tmp_path / "state.json").read()


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Is a directory"):
        StateFile(tmp_path).read()

"""The lock that tells a living process's spool from a dead one's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from mitmproxy_moesif.delivery.spool.lock import FileLock


def test_one_at_a_time_holds_it_also_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = FileLock.acquire(path)
    assert held is not None
    assert FileLock.acquire(path) is None
    assert held.in_place()
    held.release()
    held.release()
    assert not path.exists()
    again = FileLock.acquire(path)
    assert again is not None
    again.release()


def test_locks_that_come_and_go_leave_nothing_to_be_done_at_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is registered for a fork stays registered: a spool that cannot be taken over is tried again for ever."""
    registered: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **more: registered.append(more))
    for _ in range(3):
        held = FileLock.acquire(tmp_path / "lock")
        assert held is not None
        held.release()
    assert not registered


@pytest.mark.parametrize("recreated", [False, True])
def test_a_file_removed_before_it_was_locked_guards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recreated: bool
) -> None:
    """Its last holder lets go between our opening it and our locking it."""
    path = tmp_path / "lock"
    lock_at_once = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        path.unlink()
        if recreated:
            path.touch()
        lock_at_once(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    assert FileLock.acquire(path) is None


def test_letting_go_leaves_a_file_that_is_another_s(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = FileLock.acquire(path)
    assert held is not None
    path.unlink()
    path.touch()
    assert not held.in_place()
    held.release()
    assert path.exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FileLock.acquire(tmp_path / "none" / "lock")

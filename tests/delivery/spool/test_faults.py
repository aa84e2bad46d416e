"""The spool against real processes that are killed, fork, race for the same file, and run into a disk that is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mitmproxy_moesif.delivery.spool.file import SpoolFile
from tests.delivery.spool.spools import MIB, a_chunk, adopted, dead_spool

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one of the programs of spool_children; all have ended when the test has."""
    with ExitStack() as started:

        def start(name: str, *arguments: object) -> subprocess.Popen[str]:
            path = os.pathsep.join([str(ROOT / "addon"), str(ROOT)])
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.delivery.spool.children", name, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.enter_context(child)
            started.callback(child.kill)
            return child

        yield start


def line(child: subprocess.Popen[str]) -> list[str]:
    assert child.stdout is not None
    return child.stdout.readline().split()


def lines_until(child: subprocess.Popen[str], last: str) -> list[list[str]]:
    found = []
    while (words := line(child)) != [last]:
        assert words, f"the child ended before it told {last!r}"
        found.append(words)
    return found


def rest(child: subprocess.Popen[str]) -> list[list[str]]:
    assert child.stdout is not None
    return [text.split() for text in child.stdout.read().splitlines()]


def sign(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def ids(lines: list[list[str]], word: str) -> list[str]:
    return [one for first, *others in lines if first == word for one in others]


def take_over(folder: Path) -> list[str]:
    """The ids of all events that dead processes left; their files are gone afterwards."""
    found: list[str] = []
    for spool in adopted(folder):
        keys = [info.key for info in spool.index()]
        found += [one for key in keys for one in spool.load(key).transaction_ids]
        spool.remove(keys)
        spool.close()
    return found


# -- Ends


@pytest.mark.parametrize("size", [60, 2000, 30_000])
def test_whatever_was_stored_outlives_a_kill(start: Start, folder: Path, size: int) -> None:
    """At a random moment: all that was appended and not removed is there, once, and besides it one chunk at most."""
    for _ in range(4):
        child = start("append", folder, size)
        told = [line(child) for _ in range(random.randint(1, 400))]
        child.send_signal(signal.SIGKILL)
        told += rest(child)
        child.wait()
        # The pipe may end in the middle of a line: that one was not told.
        told = [words for words in told if len(words) == 3 and len(words[2]) == 36]
        appended, removed = ids(told, "appended"), ids(told, "removed")
        found = take_over(folder)
        assert len(found) == len(set(found))
        missing = set(appended) - set(removed) - set(found)
        # A removal that was done, but not told any more, is the last thing that happened.
        assert missing <= set(appended[-2:])
        assert len(set(found) - set(appended)) <= 2
        assert not set(found) & set(removed)
    assert list(folder.iterdir()) == []


def test_a_dead_neighbour_s_events_are_taken_over_while_running(start: Start, folder: Path) -> None:
    ours = SpoolFile.create(folder, 64 * MIB)
    ours.append([a_chunk()])
    neighbour, survivor = start("hold", folder, 5), start("hold", folder, 3)
    theirs = ids(lines_until(neighbour, "ready"), "appended")
    lines_until(survivor, "ready")
    assert take_over(folder) == []
    neighbour.kill()
    neighbour.wait()
    assert sorted(take_over(folder)) == sorted(theirs)
    assert take_over(folder) == []
    assert len(ours.index()) == 1
    ours.close()


def test_two_processes_never_take_over_the_same_file(start: Start, folder: Path) -> None:
    chunks = [a_chunk(2) for _ in range(30)]
    for chunk in chunks:
        dead_spool(folder, [chunk])
    racers = [start("adopt", folder) for _ in range(3)]
    for racer in racers:
        lines_until(racer, "ready")
    for racer in racers:
        sign(racer)
    taken = [ids(lines_until(racer, "done"), "adopted") for racer in racers]
    everything = [one for share in taken for one in share]
    assert sorted(everything) == sorted(one for chunk in chunks for one in chunk.transaction_ids)


def test_a_forked_child_neither_uses_nor_holds_its_parent_s_spool(start: Start, folder: Path) -> None:
    parent = start("fork", folder)
    _, child, _, refused = line(parent)
    assert refused == "3"
    kept = ids([line(parent)], "appended")
    parent.wait()
    os.kill(int(child), 0)  # it lives on
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    sign(parent)
    assert rest(parent) == []  # the child has ended, and with it the pipe
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert take_over(folder) == kept


def test_a_spool_is_free_while_its_process_s_child_lives(start: Start, folder: Path) -> None:
    parent = start("fork", folder)
    line(parent)
    kept = ids([line(parent)], "appended")
    parent.wait()
    assert take_over(folder) == kept
    sign(parent)
    assert rest(parent) == []


def test_a_program_that_was_started_does_not_hold_the_spool(start: Start, folder: Path) -> None:
    owner = start("execute", folder)
    line(owner)
    owner.wait()
    assert len(take_over(folder)) == 2
    sign(owner)
    assert rest(owner) == []


# -- Disks


@pytest.mark.parametrize("room", [80_000, 300_000, 1_000_000])
def test_a_full_disk_refuses_at_once_and_loses_nothing(start: Start, folder: Path, room: int) -> None:
    child = start("fill_the_disk", folder, room)
    told = rest(child)
    assert told[:3] == [["refused", "True", "None"]] * 3
    assert told[3] == ["readable", "True"]
    assert ["refused", "to", "remove"] in told
    assert ["gone", "all", "the", "same", "True", "True"] in told
    child.wait()
    assert sorted(take_over(folder)) == sorted(ids(told, "appended"))


def test_a_log_that_cannot_grow_makes_room_for_a_removal_by_itself(start: Start, folder: Path) -> None:
    start("remove_with_a_full_log", folder).wait()
    assert len(take_over(folder)) == 20


def test_a_spool_that_fills_the_disk_itself_makes_room_when_it_is_closed(start: Start, folder: Path) -> None:
    assert rest(start("close_on_a_full_disk", folder)) == [["refused"], ["left", "0"]]


def test_a_full_disk_does_not_keep_the_dead_s_events(start: Start, folder: Path) -> None:
    whole, damaged = [a_chunk() for _ in range(3)], [a_chunk() for _ in range(3)]
    dead_spool(folder, whole)
    dead_spool(folder, damaged).write_bytes(b"")
    told = rest(start("adopt_on_a_full_disk", folder))
    assert told == [
        ["adopted", "True", *(one for chunk in whole for one in chunk.transaction_ids)],
        ["adopted", "False", *(one for chunk in damaged for one in chunk.transaction_ids)],
        ["done"],
    ]


def test_a_folder_that_may_not_be_written_to_is_an_error_until_it_may(start: Start) -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        folder = Path(home) / "spool"
        folder.mkdir()
        told = rest(start("use_as_an_ordinary_user", folder))
    assert [words[0] for words in told] == ["refused", "adopted", "created", "adopted"]
    assert told[0][-2:] == ["Permission", "denied"]

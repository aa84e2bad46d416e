"""Programs that the tests of the spool run as processes: `python -m tests.delivery.spool.children NAME ARGUMENTS`.

Each tells on its standard output what it did, a line at a time, and does nothing further where the test is to end it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mitmproxy_moesif.delivery.spool.directory import SpoolDirectory
from mitmproxy_moesif.delivery.spool.file import SpoolError, SpoolFile
from tests.delivery.spool.spools import MIB, a_chunk

NOBODY = 65534


def tell(*words: object) -> None:
    print(*words, flush=True)


def wait_for_a_line() -> None:
    sys.stdin.readline()


def append(folder: str, size: str) -> None:
    """Append without end; each id is told once its chunk is on disk. Every other chunk is then removed, and told."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    number = 0
    while True:
        chunk = a_chunk(2, int(size))
        spool.append([chunk])
        tell("appended", *chunk.transaction_ids)
        number += 1
        if number % 2:
            spool.remove([chunk.key or 0])
            tell("removed", *chunk.transaction_ids)


def hold(folder: str, chunks: str) -> None:
    """Append so many chunks, tell their ids, and stay."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    for _ in range(int(chunks)):
        chunk = a_chunk(2)
        spool.append([chunk])
        tell("appended", *chunk.transaction_ids)
    tell("ready")
    wait_for_a_line()


def adopt(folder: str) -> None:
    """At a sign, take over what there is and tell its ids; keep it until the next sign."""
    tell("ready")
    wait_for_a_line()
    for _, spool in SpoolDirectory(Path(folder), 64 * MIB).adopt():
        for info in spool.index():
            tell("adopted", *spool.load(info.key).transaction_ids)
    tell("done")
    wait_for_a_line()


def fork(folder: str) -> None:
    """Own a spool, fork, and let the child try to use it; the child then outlives its parent."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    chunk = a_chunk(2)
    spool.append([chunk])
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: spool.append([a_chunk()]), spool.index, lambda: spool.remove([1])):
            try:
                use()
            except SpoolError:
                refused += 1
        spool.close()
        del spool
        tell("child", os.getpid(), "refused", refused)
        os.write(go, b"x")
        wait_for_a_line()
        sys.exit()  # not _exit: an inherited connection that is collected now must do no harm
    os.read(ready, 1)
    more = a_chunk(2)
    spool.append([more])
    tell("appended", *chunk.transaction_ids, *more.transaction_ids)
    os.kill(os.getpid(), 9)


def execute(folder: str) -> None:
    """Own a spool, start another program, and die; the program stays."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    spool.append([a_chunk(2)])
    program = subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)
    tell("program", program.pid)
    os.kill(os.getpid(), 9)


def fill_the_disk(folder: str, room: str) -> None:
    """Append until files may grow no further, then with room again."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    kept = []
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), most))
    failures = 0
    while failures < 3:
        chunk = a_chunk(20, 1000)
        try:
            spool.append([chunk])
        except SpoolError as e:
            failures += 1
            tell("refused", "\n" not in str(e), chunk.key)
        else:
            kept.append(chunk)
    tell("readable", [spool.load(info.key).events for info in spool.index()] == [chunk.events for chunk in kept])
    gone = kept.pop(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        spool.remove([gone.key or 0])
    except SpoolError:
        tell("refused to remove")
    left = [info.key for info in spool.index()]
    tell("gone all the same", gone.key not in left, len(left) == len(kept))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    kept.append(a_chunk())
    spool.append(kept[-1:])
    for chunk in kept:
        tell("appended", *chunk.transaction_ids)
    os.kill(os.getpid(), 9)


def remove_with_a_full_log(folder: str) -> None:
    """The log may grow no further, but its pages have their place in the database."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    chunks = [a_chunk(20, 1000) for _ in range(10)]
    for chunk in chunks:  # one by one: so the log is larger than the database, which may become as large
        spool.append([chunk])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = spool.path.with_name(spool.path.name + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, most))
    spool.remove([chunk.key or 0 for chunk in chunks[1:]])
    os.kill(os.getpid(), 9)


def close_on_a_full_disk(folder: str) -> None:
    """All that a spool held was sent, and the disk, full of this very spool, does not take the removals."""
    spool = SpoolFile.create(Path(folder), 64 * MIB)
    chunks = [a_chunk(20, 1000) for _ in range(10)]
    spool.append(chunks)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        spool.remove([chunk.key or 0 for chunk in chunks])
    except SpoolError:
        tell("refused")
    spool.close()
    tell("left", len(list(Path(folder).iterdir())))


def adopt_on_a_full_disk(folder: str) -> None:
    """What is whole is taken over and read; what is damaged waits until its rows can be copied."""
    now = 0.0
    keeper = SpoolDirectory(Path(folder), 64 * MIB, clock=lambda: now)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 0, most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        for _, spool in keeper.adopt():
            ids = [spool.load(info.key).transaction_ids for info in spool.index()]
            tell("adopted", limit == 0, *(one for chunk in ids for one in chunk))
        now += 100.0
    tell("done")


def use_as_an_ordinary_user(folder: str) -> None:
    """In a folder of its own that it may not write to, then may."""
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    for mode in (0o500, 0o700):
        Path(folder).chmod(mode)
        try:
            SpoolFile.create(Path(folder), MIB).close()
        except SpoolError as e:
            tell("refused", e)
        else:
            tell("created")
        tell("adopted", len(list(SpoolDirectory(Path(folder), MIB).adopt())))


CHILDREN: dict[str, Callable[..., None]] = {
    child.__name__: child
    for child in (
        append,
        hold,
        adopt,
        fork,
        execute,
        fill_the_disk,
        remove_with_a_full_log,
        close_on_a_full_disk,
        adopt_on_a_full_disk,
        use_as_an_ordinary_user,
    )
}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])

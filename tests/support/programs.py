"""A Python program in a process that was forked and has had its imports.

The processes that it starts first, its workers and its delivery process, are spared theirs too: before its first line
it forks spares, and what it would start is what a spare becomes. That is its child, with the files, the environment and
the session that it would have. Where no spare is left, as when one was killed, processes are started as always.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MOST = 1 << 20
"""Bytes of what is said about a program."""

_FREE = 100
"""Descriptors from here on are in nobody's way."""

_MOST_FILES = 20
_NAME = 15
"""Letters that Linux keeps of a process's name."""

_PATH = sys.path[1:]
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(argv: list[str], env: dict[str, str], cwd: str, spares: list[int]) -> None:
    """A script with its arguments, or Python's own command line of a module.

    `spares`: how many processes it starts, and how many each of these does.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if spares:
        _start_with([_spare(spares[1:]) for _ in range(spares[0])])
    if "COVERAGE_PROCESS_CONFIG" in env or "COVERAGE_PROCESS_START" in env:
        import coverage

        coverage.process_startup()
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *_PATH]
    if argv[0] == sys.executable:
        sys.argv = argv[argv.index("-m") + 1 :]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path.insert(0, str(Path(argv[0]).parent))
        runpy.run_path(argv[0], run_name="__main__")


def place(files: Mapping[int, int]) -> None:
    """Each file, the value, gets its descriptor, the key; it is no longer under the one that it had."""
    moved = {}
    for wanted, given in files.items():
        moved[wanted] = fcntl.fcntl(given, fcntl.F_DUPFD, _FREE)
    for given in set(files.values()):
        os.close(given)
    for wanted, descriptor in moved.items():
        os.dup2(descriptor, wanted)
        os.close(descriptor)


def is_module(pid: int, module: str) -> bool:
    """Whether this process runs it, whichever way it was started."""
    try:
        is_named = Path(f"/proc/{pid}/comm").read_text().rstrip("\n") == module[-_NAME:]
        return is_named or module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _spare(spares: list[int]) -> tuple[int, socket.socket]:
    """A process that waits for what it is to become, and a connection to it, with whose end it ends."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (pid := os.fork()) == 0:
        ours.close()
        _become(its, spares)
    its.close()
    return pid, ours


def _become(told: socket.socket, spares: list[int]) -> NoReturn:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    with told:
        message, files, _, _ = socket.recv_fds(told, MOST, _MOST_FILES)
    if not message:
        os._exit(0)
    wanted: dict[str, Any] = json.loads(message)
    place(dict(zip(wanted["descriptors"], files, strict=True)))
    if wanted["session"]:
        os.setsid()
    for number in _ENDING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted["blocked"])
    Path("/proc/self/comm").write_text(wanted["argv"][wanted["argv"].index("-m") + 1][-_NAME:])
    run(wanted["argv"], wanted["env"], wanted["cwd"], spares)
    raise SystemExit(0)


def _start_with(spares: list[tuple[int, socket.socket]]) -> None:
    """What `subprocess` would start as a module is what these become, one after the other."""
    fork_exec = subprocess._fork_exec  # type: ignore[attr-defined]

    def become(
        args: list[str],
        executable: Sequence[bytes],
        close: bool,
        kept: Sequence[int],
        cwd: str | None,
        env: list[bytes] | None,
        *more: Any,
    ) -> int:
        stdin, _, _, stdout, _, stderr, _, failed, _, session, *_ = more
        if args[0] != sys.executable or "-m" not in args or not spares:
            return int(fork_exec(args, executable, close, kept, cwd, env, *more))
        files = {number: number for number in kept if number != failed}
        files |= {number: (number if file == -1 else file) for number, file in enumerate((stdin, stdout, stderr))}
        wanted = {
            "argv": args,
            "env": dict(os.environ) if env is None else dict(os.fsdecode(one).split("=", 1) for one in env),
            "cwd": str(Path.cwd()) if cwd is None else cwd,
            "descriptors": list(files),
            "session": session,
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        }
        pid, told = spares.pop(0)
        with told:
            socket.send_fds(told, [json.dumps(wanted).encode()], list(files.values()))
        return pid

    vars(subprocess)["_USE_POSIX_SPAWN"] = False  # the documented way to have `subprocess` fork
    subprocess._fork_exec = become  # type: ignore[attr-defined]

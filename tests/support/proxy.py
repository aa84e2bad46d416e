"""The real mitmdump as a process of its own, with its options, its output and its end in the test's hands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from signal import SIGTERM
from typing import Any, BinaryIO

from mitmproxy.certs import CertStore

from tests.support import ADDON_SCRIPT
from tests.support.closing import Closing
from tests.support.forks import Forked
from tests.support.programs import is_module

Option = str | int | bool | Sequence[str]

BIN = Path(sys.executable).parent
MITMDUMP, MOESIF_PROXY = SCRIPTS = str(BIN / "mitmdump"), str(BIN / "moesif-proxy")
START_SECONDS = 30
HELPER_SECONDS = 20
_LISTENING = re.compile(r"listening at (?:http://)?127\.0\.0\.1:(\d+)")
# What would change how a process of ours behaves: our own parameters, proxies for its requests, Python's paths.
_SCRUBBED = re.compile(r"MOESIF_|AKTO_|(HTTPS?|ALL|NO)_PROXY$|PYTHON|MITMPROXY_|SSLKEYLOGFILE$", re.IGNORECASE)


class StartError(AssertionError):
    """mitmdump ended instead of starting. `code` is its exit code, `output` all that it wrote."""

    def __init__(self, code: int, output: str) -> None:
        super().__init__(f"mitmdump ended with {code} instead of starting:\n{output}")
        self.code = code
        self.output = output


class Mitmdump(Closing):
    """`mitmdump` of the running environment, listening on a free port of 127.0.0.1.

    `options` go as `--set`, a list as several; `upstream` None leaves the mode out (a plain forward proxy) unless
    `extra_args` give one. `environment` is added to this process's, from which our parameters are removed. Without
    `folder` (confdir, and where output goes) there is a temporary one. It waits for the proxy to listen, and raises
    `StartError` where it ends instead. `port` 0 is a free one; give a former `.port` to start on the same again.
    Without `forked` it is started as users do, for tests of command lines and first environments.

    A context manager. `kill` or `stop` it, or leave the context: it never outlives that.
    """

    def __init__(
        self,
        upstream: str | None = None,
        options: Mapping[str, Option] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        scripts: Sequence[Path | str] = (ADDON_SCRIPT,),
        extra_args: Sequence[str] = (),
        folder: Path | None = None,
        port: int = 0,
        program: Sequence[str] = (MITMDUMP,),
        wait: bool = True,
        forked: bool = True,
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="mitmdump-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        if program[0] == MITMDUMP and not (authority := self.folder / "mitmproxy-ca.pem").exists():
            authority.write_bytes(_authority())
        self._output = self.folder / f"output-{time.monotonic_ns()}.txt"
        command = [*program, *_arguments(upstream, options or {}, scripts, self.folder, port), *extra_args]
        with self._output.open("wb") as sink:
            self.process = started(command, _environment(environment or {}), self.folder, sink, forked=forked)
        self.port = 0
        if wait:
            self._wait_until_listening()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """All that the process has written so far, stdout and stderr in order."""
        return self._output.read_text(errors="replace")

    def wait_for_output(self, text: str, timeout: float = 30, count: int = 1) -> str:
        """Waits until the output contains `text` `count` times and returns it all. Raises `AssertionError`."""
        deadline = time.monotonic() + timeout
        while (output := self.output).count(text) < count:
            assert time.monotonic() < deadline, f"{text!r} did not appear within {timeout} s in:\n{output}"
            ended = self.process.poll() is not None
            assert not ended or text in self.output, f"mitmdump ended without {text!r}:\n{self.output}"
            time.sleep(0.02)
        return output

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, signal: int = SIGTERM, timeout: float = 20) -> int:
        """Asks the process to end and waits; returns its exit code. Raises `AssertionError`, and kills it."""
        if self.process.poll() is None:
            self.send_signal(signal)
        return self.wait_exit(timeout)

    def wait_exit(self, timeout: float = 20) -> int:
        """Waits for the end of the process; returns its exit code. Raises `AssertionError`, and kills it."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"mitmdump did not end within {timeout} s:\n{self.output}") from None

    def kill(self) -> None:
        """Ends the process at once, as `kill -9` does. The process beside it has stored what it had on return."""
        helpers = helpers_of(self.pid)
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + HELPER_SECONDS
        for helper in helpers:
            while is_helper(helper):
                assert time.monotonic() < deadline, f"process {helper} did not end with its proxy"
                time.sleep(0.005)

    def close(self) -> None:
        """No process and no temporary folder is left after this."""
        if self.process.poll() is None:
            self.kill()
        if self._temporary:
            self._temporary.cleanup()

    def memory(self) -> int:
        """Bytes that are resident now."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Most bytes that have been resident."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found, f"no {name} of process {self.pid}"
        return int(found[1]) * 1024

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        try:
            while not (found := _LISTENING.search(self.output)):
                if (code := self.process.poll()) is not None:
                    raise StartError(code, self.output)
                assert time.monotonic() < deadline, f"mitmdump did not listen within {START_SECONDS} s:\n{self.output}"
                time.sleep(0.02)
        except BaseException:
            self.close()
            raise
        self.port = int(found[1])


@cache
def _authority() -> bytes:
    """The certificate and key that mitmdump makes at its first start, which takes a tenth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        CertStore.create_store(Path(folder), "mitmproxy", 2048)
        return Path(folder, "mitmproxy-ca.pem").read_bytes()


def started(
    command: Sequence[str], environment: dict[str, str], folder: Path, sink: BinaryIO, *, forked: bool
) -> Forked | subprocess.Popen[bytes]:
    """In a session of its own, so that a Ctrl-C for the tests is none for it."""
    if forked and command[0] in SCRIPTS and not _has_own_imports(command):
        return Forked(command, environment, folder, sink.fileno(), _spares(command, environment))
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def _has_own_imports(command: Sequence[str]) -> bool:
    """Whether it has the project from another folder, or Python a file of its own to begin with."""
    scripts = [Path(argument).resolve() for argument in command if argument.endswith(".py")]
    return any(
        script.name == "sitecustomize.py" or (script.name == ADDON_SCRIPT.name and script != ADDON_SCRIPT.resolve())
        for script in scripts
    )


def _spares(command: Sequence[str], environment: Mapping[str, str]) -> list[int]:
    """How many workers it starts, and that each of them, or it, starts a delivery process."""
    workers = int(command[command.index("--workers") + 1]) if "--workers" in command else 1
    beside = [] if "moesif_background=threads" in command or "MOESIF_BACKGROUND" in environment else [1]
    return [workers, *beside] if workers > 1 else beside


def helpers_of(pid: int) -> list[int]:
    """The processes beside a proxy and beside its workers."""
    found = [pid]
    for parent in found:
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # it may end at any moment
                found += map(int, listing.read_text().split())
    return [one for one in found if is_helper(one)]


def is_helper(pid: int) -> bool:
    return is_module(pid, "mitmproxy_moesif.delivery.process")


def failed_start(*args: Any, **kwargs: Any) -> StartError:
    """Starts `Mitmdump` with these arguments where it is to end by itself; returns how it did.

    mitmproxy may listen for a moment before an addon's error in `load` ends it, so that waiting for it to listen tells
    nothing. Raises `AssertionError` where it does not end.
    """
    with Mitmdump(*args, **kwargs, wait=False) as proxy:
        code = proxy.wait_exit(START_SECONDS)
        return StartError(code, proxy.output)


def _arguments(
    upstream: str | None, options: Mapping[str, Option], scripts: Sequence[Path | str], folder: Path, port: int
) -> list[str]:
    arguments = ["--listen-host", "127.0.0.1", "--listen-port", str(port), "--set", f"confdir={folder}"]
    if upstream:
        arguments += ["--mode", f"reverse:{upstream}"]
    for script in scripts:
        arguments += ["-s", str(Path(script).resolve())]
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            arguments += ["--set", f"{name}={str(one).lower() if isinstance(one, bool) else one}"]
    return arguments


ENGINE = {"MOESIF_ENGINE": os.environ["TEST_ENGINE"]} if "TEST_ENGINE" in os.environ else {}
"""What carries HTTP/1 where a test does not say it: `make test-lane`."""


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _SCRUBBED.match(name)}
    return {**kept, **ENGINE, "PYTHONUNBUFFERED": "1", **added}

"""nginx in Kong's place: a process of its own on loopback that does to messages what Kong does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.client import exchange
from tests.support.closing import Closing
from tests.support.upstream import ScriptedUpstream
from tests.topology.configuration import render
from tests.topology.kong import KongConfiguration, kong_itself

START_SECONDS = 20
KONG_ADDRESS = "127.0.0.9"
"""Where Kong's connections to the service come from, so that they are told from the client's and the proxy's."""


class KongLikeNginx(Closing):
    """Listens on a free port of 127.0.0.1 when made, and passes on to `service_port`.

    `trusted_ips` is KONG_TRUSTED_IPS, with KONG_REAL_IP_HEADER=X-Forwarded-For and KONG_REAL_IP_RECURSIVE=on; `address`
    is where its connections to the service come from. A context manager: the process never outlives it. Fails the test
    where there is no nginx that can do it.
    """

    def __init__(
        self,
        service_port: int,
        kong: KongConfiguration,
        *,
        trusted_ips: Sequence[str] = (),
        address: str = KONG_ADDRESS,
    ) -> None:
        program = nginx()
        self._temporary = tempfile.TemporaryDirectory(prefix="kong-like-nginx-")
        folder = Path(self._temporary.name)
        self._output = folder / "output.txt"
        self._reserved = _reserve()
        self.port: int = self._reserved.getsockname()[1]
        self._itself = ScriptedUpstream()
        self._itself.handler = kong_itself
        content = render(
            kong,
            folder,
            port=self.port,
            service_port=service_port,
            itself_port=self._itself.port,
            address=address,
            trusted_ips=trusted_ips,
        )
        (folder / "nginx.conf").write_text(content)
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(
                [*command, "-g", "daemon off; master_process off;"], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        self._wait_until_listening()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reserved.close()
        self._itself.close()
        self._temporary.cleanup()

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self._answers():
                assert self._process.poll() is None, f"nginx ended instead of starting:\n{self.output}"
                assert time.monotonic() < deadline, f"nginx did not answer within {START_SECONDS} s:\n{self.output}"
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        try:
            return exchange(self.port, target="/is-it-there") is not None
        except OSError:
            return False


def nginx() -> str:
    """The path of nginx. Fails the test where there is none with what is needed: a check that nobody runs is none."""
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if path is None:
        pytest.fail("nginx is needed for this test: apt-get install nginx-light")
    built = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stderr
    if "--with-http_realip_module" not in built:
        pytest.fail(f"{path} is built without http_realip_module, which this test needs: apt-get install nginx-light")
    return path


def _reserve() -> socket.socket:
    """A free port that stays ours: bound but not listening, so that nobody but nginx can have it (`reuseport`)."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved

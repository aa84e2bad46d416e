"""What stands around the proxy: upstreams and the collector, each a process on a free port of 127.0.0.1."""

from __future__ import annotations

import json
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.bench import nginx, rules
from tests.bench.children import Child, python
from tests.bench.load import document
from tests.support.closing import Closing
from tests.support.h2 import make_pem
from tests.support.ports import free_port

SIZES = (200, 1_000, 10_000, 100_000)
"""Bytes of the JSON documents; the addon's default limit still takes the largest whole."""


class Services(Closing):
    """All of them, from creation to `close`."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._refusing = self._stack.enter_context(socket.socket())
        try:
            self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        www = folder / "www"
        www.mkdir()
        for size in SIZES:
            (www / f"{size}.json").write_bytes(document(size))
        self.certificate = make_pem(folder)
        self.upstream_port = self._json_upstream(folder, www)
        self.tls_upstream_port = self._json_upstream(folder, www, self.certificate) if nginx.program() else None
        self.stream_port = free_port()
        self._run("stream upstream", python("stream_upstream", str(self.stream_port)), self.stream_port, folder)
        self.rules_file = folder / "rules.json"
        self.rules_file.write_text(json.dumps(rules.rules()))
        self._collector_port = free_port()
        command = python("collector", str(self._collector_port))
        self.collector_pid = self._run("collector", command, self._collector_port, folder).pid
        # Bound and not listening: connections are refused, and nobody else is given the port.
        self._refusing.bind(("127.0.0.1", 0))

    def close(self) -> None:
        self._stack.close()

    def _run(self, name: str, command: list[str], port: int, folder: Path) -> Child:
        child = self._stack.enter_context(Child(name.replace(" ", "-"), command, folder))
        child.wait_for_port(port)
        return child

    def _json_upstream(self, folder: Path, www: Path, certificate: Path | None = None) -> int:
        port = free_port()
        if nginx.program() is None:
            self._run("upstream", python("json_upstream", str(port), str(www)), port, folder)
        else:
            self._run("upstream", nginx.serving_files(folder, port, www, certificate), port, folder)
        return port

    def collector(self, kind: str) -> str:
        """The endpoint of a collector that is `up`, `slow`, `slower` (1 or 3 s for each answer) or `down`."""
        if kind == "down":
            return f"http://127.0.0.1:{self._refusing.getsockname()[1]}"
        base = f"http://127.0.0.1:{self._collector_port}"
        return base if kind == "up" else f"{base}/{kind}"

    def counted(self, application_id: str) -> int:
        """How many events the collector has got with this application id."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._collector_port}/counts", timeout=10) as answer:
            return int(json.load(answer).get(application_id, 0))

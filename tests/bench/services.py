"""What stands around the proxy: upstreams and the collector, each a process on a free port of 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench import rules
from tests.bench.children import Child, python
from tests.bench.load import document
from tests.support.ports import free_port

SIZES = (200, 1_000, 10_000, 100_000)
"""Bytes of the JSON documents; the addon's default limit still takes the largest whole."""

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    types {{ application/json json; }}
    default_type application/octet-stream;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    open_file_cache max=16;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        root {www};
        error_page 405 =200 $uri;  # a POST gets the file as well
    }}
}}
"""


class Services:
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
        self.upstream_port = self._json_upstream(folder, www)
        self.stream_port = free_port()
        self._run("stream upstream", python("stream_upstream", str(self.stream_port)), self.stream_port, folder)
        self.rules_file = folder / "rules.json"
        self.rules_file.write_text(json.dumps(rules.rules()))
        self._collector_port = free_port()
        command = python("collector", str(self._collector_port))
        self.collector_pid = self._run("collector", command, self._collector_port, folder).pid
        # Bound and not listening: connections are refused, and nobody else is given the port.
        self._refusing.bind(("127.0.0.1", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def _run(self, name: str, command: list[str], port: int, folder: Path) -> Child:
        child = self._stack.enter_context(Child(name.replace(" ", "-"), command, folder))
        child.wait_for_port(port)
        return child

    def _json_upstream(self, folder: Path, www: Path) -> int:
        port = free_port()
        program = nginx()
        if program is None:
            self._run("upstream", python("json_upstream", str(port), str(www)), port, folder)
            return port
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, port=port, www=www))
        command = [program, "-e", f"{folder}/nginx.log", "-p", str(folder), "-c", str(configuration)]
        self._run("upstream", command, port, folder)
        return port

    def collector(self, kind: str) -> str:
        """The endpoint of a collector that is `up`, `slow` (a second for each answer) or `down`."""
        if kind == "down":
            return f"http://127.0.0.1:{self._refusing.getsockname()[1]}"
        base = f"http://127.0.0.1:{self._collector_port}"
        return base if kind == "up" else f"{base}/{kind}"

    def counted(self, application_id: str) -> int:
        """How many events the collector has got with this application id."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._collector_port}/counts", timeout=10) as answer:
            return int(json.load(answer).get(application_id, 0))


def nginx() -> str | None:
    """Debian keeps it outside a user's search path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

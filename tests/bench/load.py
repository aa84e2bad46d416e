"""Load on a proxy: as much as it takes (wrk, else the client), or at a fixed rate (the client)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.children import REPOSITORY, BenchError, python
from tests.bench.client import GRACE_SECONDS, Outcome, Task
from tests.bench.stats import PERCENTILES, percentile

# The parts of a request that an API's client usually sends, and that the addon has to look at.
_CLAIMS = base64.urlsafe_b64encode(b'{"sub":"user-4711","org":"acme","iat":1760000000,"exp":1860000000}')
_TOKEN = f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{_CLAIMS.decode().rstrip('=')}.c2lnbmF0dXJlc2lnbmF0dXJl"
HEADERS = {
    "Host": "api.example.com",
    "User-Agent": "bench/1.0 (loopback)",
    "Accept": "application/json",
    "Authorization": f"Bearer {_TOKEN}",
}


@dataclass(frozen=True)
class Request:
    """GET of a JSON document of `size` bytes; with `both` a POST that brings as much."""

    size: int
    both: bool = False

    @property
    def target(self) -> str:
        return f"/{self.size}.json?page=2&q=shoes"

    @property
    def method(self) -> str:
        return "POST" if self.both else "GET"

    @property
    def headers(self) -> dict[str, str]:
        if not self.both:
            return HEADERS
        return {**HEADERS, "Content-Type": "application/json", "Content-Length": str(self.size)}

    @property
    def body(self) -> str:
        return document(self.size).decode() if self.both else ""

    @property
    def head(self) -> str:
        lines = [f"{name}: {value}\r\n" for name, value in self.headers.items()]
        return f"{self.method} {self.target} HTTP/1.1\r\n{''.join(lines)}\r\n"


def document(size: int) -> bytes:
    """A JSON document of exactly `size` bytes (at least 100): a list of records, some of whose fields get masked."""
    records: list[bytes] = []
    left = size - len(b'{"items":[],"note":""}')
    while True:
        number = len(records)
        record = (
            b'{"id":%d,"name":"item %d","price":%d.95,"tags":["new","sale"],"owner":{"email":"o%d@example.com",'
            b'"password":"5ecr3t-%d"},"active":true}' % (number, number, number % 90, number, number)
        )
        if len(record) + 1 > left:
            break
        records.append(record)
        left -= len(record) + (len(records) > 1)
    return b'{"items":[' + b",".join(records) + b'],"note":"' + b"x" * left + b'"}'


@dataclass
class Load:
    """What came of one stretch of load; latencies in milliseconds, `cut`: requests that were under way at its end."""

    requests: int
    errors: int
    seconds: float
    percentiles: dict[int, float]
    latencies: list[float] = field(default_factory=list)
    late: float = 0.0
    cut: int = 0


def saturate(url: str, request: Request, connections: int, seconds: int, folder: Path) -> Load:
    """A closed loop over `connections` keep-alive connections. Raises `BenchError` for https where there is no wrk."""
    if shutil.which("wrk") is None:
        where = urlsplit(url)
        if where.scheme != "http" or where.port is None:
            raise BenchError("load over TLS needs wrk")
        task = Task(where.port, request.head, request.body, connections, seconds)
        return _from_client(task)
    script = folder / f"{request.method}-{request.size}.lua"
    if not script.exists():
        script.write_text(wrk_script(request))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    numbers = map(int, _output_of(command, seconds).rpartition("RESULT ")[2].split())
    requests, microseconds, errors, *latencies = numbers
    quantiles = {quantile: value / 1000 for quantile, value in zip(PERCENTILES, latencies, strict=True)}
    return Load(requests, errors, microseconds / 1e6, quantiles, cut=connections)


def at_rate(port: int, request: Request, connections: int, seconds: float, rate: float, seed: int) -> Load:
    """An open loop of `rate` requests a second; latencies count from when each was due."""
    return _from_client(Task(port, request.head, request.body, connections, seconds, rate, seed))


def _from_client(task: Task) -> Load:
    outcome = Outcome(**json.loads(_output_of(python("client", json.dumps(asdict(task))), task.seconds)))
    return Load(
        outcome.requests,
        outcome.errors,
        outcome.seconds,
        {quantile: percentile(outcome.latencies, quantile) for quantile in PERCENTILES},
        outcome.latencies,
        outcome.late,
    )


def _output_of(command: Sequence[str], seconds: float) -> str:
    name = Path(command[0]).name
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds + 2 * GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise BenchError(f"the load generator ({name}) did not end in time") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        lines = (errors or output).strip().splitlines()
        raise BenchError(f"the load generator ({name}) failed: {lines[-1] if lines else 'it says nothing'}")
    return output


def wrk_script(request: Request) -> str:
    """wrk sends the request, and tells what came of it as whole numbers: its own report rounds."""
    values = ["summary.requests", "summary.duration", "failed"]
    values += [f"latency:percentile({quantile})" for quantile in PERCENTILES]
    lines = [
        f"wrk.method = {_lua(request.method)}",
        f"wrk.path = {_lua(request.target)}",
        *(f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in request.headers.items()),
        *([f"wrk.body = {_lua(request.body)}"] if request.body else []),
        "function done(summary, latency, requests)",
        "  local e = summary.errors",
        "  local failed = e.connect + e.read + e.write + e.status + e.timeout",
        f'  io.write(string.format("RESULT{" %d" * len(values)}", {", ".join(values)}))',
        "end",
    ]
    return "\n".join(lines) + "\n"


def _lua(text: str) -> str:
    return json.dumps(text)

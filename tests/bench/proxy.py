"""One variant running, and its account at the end: every exchange delivered, waiting or dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.bench import nginx, proc
from tests.bench.children import REPOSITORY, BenchError, Child
from tests.bench.load import Load, Request, at_rate, saturate
from tests.bench.services import Services
from tests.bench.variants import BIN, TRANSPARENT, Variant, production_start
from tests.support.closing import Closing
from tests.support.ports import free_port

STOP_SECONDS = 20.0
_LINE = re.compile(r"moesif: captured (\d+), delivered (\d+), waiting (\d+), dropped (\d+)(?: \((.*)\))?")


@dataclass(frozen=True)
class Account:
    """Numbers of events. `sent`: answered requests; `cut`: at most so many more were under way when a load ended."""

    variant: str
    sent: int
    cut: int
    captured: int
    delivered: int
    waiting: int
    dropped: int
    causes: str
    counted: int

    @property
    def holds(self) -> bool:
        """Nothing unaccounted, and the collector has what is said to be delivered."""
        adds_up = self.captured == self.delivered + self.waiting + self.dropped
        return adds_up and self.sent <= self.captured <= self.sent + self.cut and self.counted >= self.delivered

    def text(self) -> str:
        causes = f" ({self.causes})" if self.causes else ""
        return (
            f"{self.variant}: sent {self.sent} (+ up to {self.cut} cut off), captured {self.captured} = "
            f"delivered {self.delivered} + waiting {self.waiting} + dropped {self.dropped}{causes}; "
            f"the collector got {self.counted}: {'all accounted for' if self.holds else 'NOT ACCOUNTED FOR'}"
        )


def read_account(output: str, variant: str, sent: int, cut: int, counted: int) -> Account:
    """From the exit line in what the proxy wrote. Raises `BenchError` where there is none."""
    lines = _LINE.findall(output)
    if not lines:
        last = output.strip().splitlines()
        raise BenchError(f"{variant} wrote no exit line; the last it wrote: {last[-1] if last else 'nothing'}")
    captured, delivered, waiting, dropped = map(int, lines[-1][:4])
    return Account(variant, sent, cut, captured, delivered, waiting, dropped, lines[-1][4], counted)


class Proxy(Closing):
    """Runs from creation to `stop`. A context manager."""

    def __init__(self, variant: Variant, services: Services, folder: Path, upstream_port: int | None = None) -> None:
        self.variant = variant
        behind = upstream_port or (services.tls_upstream_port if variant.tls_behind else services.upstream_port) or 0
        self.port = behind if variant.beside == "nothing" else free_port()
        self._services = services
        self._folder = folder / f"{variant.name}-{self.port}"
        self._folder.mkdir(exist_ok=True)  # what is no proxy has the port of the upstream in every round
        self._id = f"bench-{variant.name}-{self.port}"
        self.admin_port = free_port() if variant.admin else None
        self._sent = self._cut = 0
        upstream = f"{'https' if variant.tls_behind else 'http'}://127.0.0.1:{behind}"
        self._child = Child(variant.name, self._command(upstream), self._folder)
        try:
            self._child.wait_for_port(self.port)
        except BaseException:
            self._child.stop(1.0)
            raise

    def _command(self, upstream: str) -> list[str]:
        variant = self.variant
        if variant.beside:
            return self._command_beside(upstream)
        options = dict(variant.options) if not variant.addon else {**self._account_options(), **variant.options}
        if variant.workers:
            start = production_start() or ()
            where = ["--upstream", upstream, "--listen", f"127.0.0.1:{self.port}", "--workers", str(variant.workers)]
        else:
            start = (str(BIN / "mitmdump"), "-q", "--mode", f"reverse:{upstream}")
            where = ["--listen-host", "127.0.0.1", "--listen-port", str(self.port)]
            if variant.addon:
                where += ["-s", str(REPOSITORY / "addon" / "moesif.py")]
            options = {**TRANSPARENT, **options}
        if variant.tls_in_front:
            where += ["--tls-cert", str(self._services.certificate)]
        if variant.tls_behind:
            options["ssl_verify_upstream_trusted_ca"] = str(self._services.certificate)
        options["confdir"] = str(self._folder)
        return [*start, *where, *(part for name, value in options.items() for part in ("--set", f"{name}={value}"))]

    def _command_beside(self, upstream: str) -> list[str]:
        match self.variant.beside:
            case "nginx":
                certificate = self._services.certificate if self.variant.tls_in_front else None
                return nginx.passing_on(self._folder, self.port, upstream, certificate)
            case "nginx-lua":
                collector = self._services.collector(self.variant.collector)
                return nginx.passing_on_with_a_logger(self._folder, self.port, upstream, collector, self._id)
            case _:
                return ["sleep", "infinity"]

    def _account_options(self) -> dict[str, str]:
        endpoint = self._services.collector(self.variant.collector)
        rules = {"moesif_rules_file": str(self._services.rules_file)} if self.variant.rules else {}
        admin = {"moesif_admin_listen": f"127.0.0.1:{self.admin_port}"} if self.admin_port is not None else {}
        akto = {"akto_service_url": self._services.collector(self.variant.akto)} if self.variant.akto else {}
        return {"moesif_application_id": self._id, "moesif_api_endpoint": endpoint, **rules, **admin, **akto}

    def close(self) -> None:
        self._child.stop(5.0)

    @property
    def pid(self) -> int:
        return self._child.pid

    def saturate(self, request: Request, connections: int, seconds: int) -> Load:
        scheme = "https" if self.variant.tls_in_front else "http"
        url = f"{scheme}://127.0.0.1:{self.port}"
        return self._noted(saturate(url, request, connections, seconds, self._folder))

    def at_rate(self, request: Request, connections: int, seconds: float, rate: float, seed: int) -> Load:
        return self._noted(at_rate(self.port, request, connections, seconds, rate, seed))

    def _noted(self, load: Load) -> Load:
        self.sent(load.requests, load.cut + load.errors)
        return load

    def sent(self, requests: int, cut: int = 0) -> None:
        """Note requests that were made without this object's help."""
        self._sent += requests
        self._cut += cut

    def counted(self) -> int:
        return self._services.counted(self._id)

    def settle(self) -> float:
        return proc.settle(self.pid)

    def stop(self) -> Account | None:
        """End it in order; its account, None where it captures nothing."""
        output = self._child.stop(STOP_SECONDS)
        if not self.variant.captures:
            return None
        return read_account(output, self.variant.name, self._sent, self._cut, self.counted())

"""What the checks are given, without a proxy."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from mitmproxy_moesif.doctor.configuration import Subject
from mitmproxy_moesif.doctor.findings import Finding
from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.runtime import Prepared
from tests.support import APPLICATION_ID


def a_subject(upstream: str = "http://127.0.0.1:9", *arguments: str, **given: Any) -> Subject:
    engine = {
        "mode": [f"reverse:{upstream}"],
        "confdir": "/nowhere",
        "client_certs": None,
        "ssl_insecure": False,
        "ssl_verify_upstream_trusted_ca": None,
        "ssl_verify_upstream_trusted_confdir": None,
    }
    engine |= {name: given.pop(name) for name in list(given) if name in engine}
    prepared = Prepared.of({"application_id": APPLICATION_ID, **given})
    return Subject(parse(["--upstream", upstream, *arguments]), prepared, SimpleNamespace(**engine))


def seen(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Check and level of each."""
    return [(finding.check, finding.level.value) for finding in findings]

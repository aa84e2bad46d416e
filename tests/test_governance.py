"""Rules, sampling and hooks through the real mitmdump, against a collector that serves them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.config.settings import Settings
from tests.support import ADDON_SCRIPT, REPOSITORY, wire
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, encode_request, exchange
from tests.support.collector import Answer, ScriptedCollector
from tests.support.h2 import H2Client, H2Upstream
from tests.support.proxy import Mitmdump, failed_start
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]


def rule(rule_id: str, kind: str = "regex", **fields: Any) -> dict[str, Any]:
    answer = {"status": 429, "headers": {"X-Rule": rule_id}, "body": {"error": rule_id}}
    return {"_id": rule_id, "name": rule_id, "type": kind, "block": True, "response": answer, **fields}


def when(*conditions: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"conditions": [{"path": path, "value": value} for path, value in conditions]}]


def governed(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, **parameters: Any) -> Mitmdump:
    """A proxy that has fetched configuration and rules: they are in force when both were asked for and answered."""
    proxy = mitmdump(upstream.url, addon_options(collector, **parameters))
    collector.wait_for(lambda c: {"/v1/config", "/v1/rules"} <= {request.path for request in c.requests()})
    # The snapshot is swapped right after the second answer: an exchange that it decides shows that it was.
    return proxy


def until_status(port: int, status: int, **request: Any) -> Any:
    """The answer once rules are in force."""
    seen = 0
    for _ in range(200):
        answer = exchange(port, **request)
        assert answer is not None
        if (seen := answer.status) == status:
            return answer
    raise AssertionError(f"no {status} among 200 answers, the last was {seen}")


@pytest.mark.parametrize(
    ("kind", "headers", "fields", "blocked"),
    [
        ("user", [("X-User", "ada")], {}, True),
        ("user", [("X-User", "bob")], {}, False),
        ("user", [("X-User", "ada")], {"applied_to": "not_matching"}, False),
        ("user", [("X-User", "bob")], {"applied_to": "not_matching"}, True),
        ("user", [], {}, False),
        ("user", [], {"applied_to_unidentified": True}, True),
        ("company", [("X-Org", "acme")], {}, True),
        ("company", [("X-Org", "other")], {}, False),
        ("company", [("X-Org", "other")], {"applied_to": "not_matching"}, True),
        ("company", [], {"applied_to_unidentified": True}, True),
        ("regex", [], {"regex_config": when(("request.route", "^/x$"), ("request.verb", "GET"))}, True),
        ("regex", [], {"regex_config": when(("request.route", "^/y$"))}, False),
        ("regex", [("X-Plan", "free")], {"regex_config": when(("request.headers.X-PLAN", "free"))}, True),
        ("regex", [], {"regex_config": when(("request.ip_address", r"^127\."))}, True),
        ("regex", [], {"block": False}, False),
    ],
)
def test_a_rule_answers_or_lets_pass(
    kind: str,
    headers: list[tuple[str, str]],
    fields: dict[str, Any],
    blocked: bool,
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    always = rule("marker", regex_config=when(("request.route", "^/marker$")))
    collector.rules = [rule("r1", kind, **fields), always]
    cohort = [{"rules": "r1", "values": {}}]
    collector.config = {"user_rules": {"ada": cohort}, "company_rules": {"acme": cohort}}
    proxy = governed(mitmdump, collector, upstream, user_id_header="x-user", company_id_header="x-org")
    until_status(proxy.port, 429, target="/marker")
    answer = exchange(proxy.port, target="/x", headers=headers)
    assert answer is not None
    (event,) = collector.wait_for(lambda c: any("/x" in e["request"]["uri"] for e in c.events())) and [
        event for event in collector.events() if event["request"]["uri"].endswith("/x")
    ]
    if blocked:
        assert (answer.status, json.loads(answer.body)) == (429, {"error": "r1"})
        assert answer.get("content-type") == "application/json"
        assert answer.get("content-length") == str(len(answer.body))
        assert answer.get("x-moesif-transaction-id") == event["transaction_id"]
        assert event["blocked_by"] == "r1"
        assert event["response"]["body"] == {"error": "r1"}
        assert not [request for request in upstream.requests() if request.path == "/x"]
    else:
        assert answer.status == 200
        assert "blocked_by" not in event
        assert (answer.get("x-rule") == "r1") is (fields.get("block") is False)


def test_headers_of_all_rules_with_tags_filled_in(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    quota = {"status": 429, "headers": {"X-Used": "{{0}} of {{1}}"}, "body": {"error": "used {{0}}, plan {{2}}"}}
    names = [{"name": str(number), "path": "x"} for number in range(3)]
    collector.rules = [
        rule("r1", "user", response=quota, variables=names),
        rule("r2", "regex", block=False, response={"headers": {"X-Used": "second", "X-Other": "yes"}}),
    ]
    collector.config = {"user_rules": {"ada": [{"rules": "r1", "values": {"0": "100", "1": '50"'}}]}}
    proxy = governed(mitmdump, collector, upstream, user_id_header="x-user")
    answer = until_status(proxy.port, 429, headers=[("X-User", "ada")])
    assert answer.get_all("x-used") == ['100 of 50"']
    assert answer.get("x-other") == "yes"
    assert json.loads(answer.body) == {"error": "used 100, plan UNKNOWN"}


def test_rules_on_the_body_hold_back_only_what_they_concern(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.rules = [
        rule("r1", regex_config=when(("request.route", "^/orders"), ("request.body.kind", "^bad$"))),
        rule("r2", regex_config=when(("request.body.query", "mutation"))),
        rule("marker", regex_config=when(("request.route", "^/marker$"))),
    ]
    proxy = governed(mitmdump, collector, upstream, request_max_body_size_limit=2000)
    until_status(proxy.port, 429, target="/marker")

    def status(target: str, body: bytes, **kwargs: Any) -> int:
        answer = exchange(proxy.port, "POST", target, body=body, **kwargs)
        assert answer is not None
        return answer.status

    assert status("/orders", b'{"kind": "bad"}') == 429
    assert status("/orders", b'{"kind": "bad"}', chunked=True) == 429
    assert status("/orders", b'{"kind": "good"}') == 200
    assert status("/other", b'{"kind": "bad"}') == 200
    assert status("/orders", b'{"kind": "bad", "pad": "%s"}' % (b"x" * 3000)) == 200
    graphql = [("Content-Type", "application/graphql")]
    assert status("/graphql", b"mutation { x }", headers=graphql) == 429
    assert status("/graphql", b'[{"query": "query a"}, {"query": "mutation b"}]') == 429
    assert status("/graphql", b'{"query": "query a"}') == 200
    assert [request.body for request in upstream.requests() if request.path == "/other"] == [b'{"kind": "bad"}']


def test_blocked_over_http2(mitmdump: Start, collector: ScriptedCollector, h2_upstream: H2Upstream) -> None:
    collector.rules = [rule("r1", regex_config=when(("request.route", "^/no")))]
    proxy = mitmdump(
        h2_upstream.url, addon_options(collector) | {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path)}
    )
    collector.wait_for(lambda c: "/v1/rules" in {request.path for request in c.requests()})
    with H2Client(proxy.port) as client:
        for _ in range(50):
            answer = client.exchange("POST", "/no", body=b'{"n": 1}')
            if answer.status == 429:
                break
    assert answer.status == 429
    assert json.loads(answer.body) == {"error": "r1"}


def test_head_gets_the_head_of_the_answer_alone(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.rules = [rule("r1")]
    proxy = governed(mitmdump, collector, upstream)
    until_status(proxy.port, 429)
    with Client(proxy.port) as client:
        for _ in range(2):  # a body would be taken for the start of the next answer
            answer = client.exchange("HEAD", "/")
            assert answer is not None
            assert answer.status == 429
            assert answer.get("content-length") == str(len(json.dumps({"error": "r1"}, separators=(",", ":"))))


@pytest.mark.parametrize("broken", ["garbage", "large", "types", "status"])
def test_a_bad_answer_leaves_the_old_rules(
    broken: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.rules = [rule("r1", regex_config=when(("request.route", "^/no$")))]
    proxy = governed(mitmdump, collector, upstream)
    until_status(proxy.port, 429, target="/no")
    answers = {
        "garbage": Answer(200, {"ETag": '"new"'}, b"\xff{nonsense"),
        "large": Answer(200, {"ETag": '"new"'}, b"[" + b" " * 50_000_000 + b"]"),
        "types": Answer(200, {"ETag": '"new"'}, b'[{"_id": 1, "type": []}]'),
        "status": Answer(500),
    }
    collector.document_script = lambda received: answers[broken] if received.path == "/v1/rules" else None
    collector.rules = [rule("r2", regex_config=when(("request.route", "^/other$")))]  # tells by its tag
    exchange(proxy.port, target="/tell")
    proxy.wait_for_output("/v1/rules", timeout=15)
    proxy.wait_for_output("keeping the last known version")
    answer = exchange(proxy.port, target="/no")
    assert answer is not None
    assert answer.status == 429


def test_rules_survive_a_start_without_moesif(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with ScriptedCollector() as collector:
        collector.rules = [rule("r1")]
        proxy = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        until_status(proxy.port, 429)
        assert proxy.stop() == 0
        collector.refuse()
        again = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=200), folder=tmp_path)
        again.wait_for_output("using rules and configuration from an earlier run")
        answer = exchange(again.port)
        assert answer is not None
        assert answer.status == 429


def test_governance_off_enforces_nothing(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.rules = [rule("r1")]
    collector.config = {"sample_rate": 0}
    proxy = governed(mitmdump, collector, upstream, governance="off")
    for _ in range(20):
        answer = exchange(proxy.port)
        assert answer is not None
        assert answer.status == 200
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["causes"].get("sampled_out", 0) > 0


LOCAL = """
# A quota of our own
- _id: local-1
  name: no deletes
  type: regex
  block: true
  regex_config:
    - conditions:
        - {path: request.verb, value: "^DELETE$"}
  response:
    status: 403
    headers: {X-Local: "yes"}
    body: {error: not here}
"""


def test_rules_of_ones_own_from_a_watched_file(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(LOCAL)
    proxy = mitmdump(upstream.url, addon_options(collector, rules_file=str(path)))
    answer = exchange(proxy.port, "DELETE")
    assert answer is not None
    assert (answer.status, answer.get("x-local")) == (403, "yes")
    path.write_text(LOCAL.replace("status: 403", "status: [403"))
    proxy.wait_for_output("keeping the previous rules")
    assert f"rules_file: {path}, line" in proxy.output
    answer = exchange(proxy.port, "DELETE")
    assert answer is not None
    assert answer.status == 403
    path.write_text(LOCAL.replace("status: 403", "status: 405"))
    proxy.wait_for_output(": 1 rule")
    answer = exchange(proxy.port, "DELETE")
    assert answer is not None
    assert answer.status == 405


def test_a_broken_rules_file_ends_the_start_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(LOCAL.replace("type: regex", "type: [regex"))
    ended = failed_start(None, addon_options(rules_file=str(path)))
    assert ended.code == 1
    assert f"rules_file: {path}, line" in ended.output


def test_sampling_with_weights_and_local_override(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, sample_rate=50))
    for _ in range(60):
        exchange(proxy.port)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["captured"] == 60
    assert counts["delivered"] + counts["causes"]["sampled_out"] == 60
    assert 0 < counts["delivered"] < 60
    assert {event["weight"] for event in collector.events()} == {2}


def test_what_is_skipped_is_not_captured_and_counted(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """As compose/RULES.md has it: anchored, so that no client can make its calls look like that."""
    given = "~u ^https?://[^/]+/health$ | ~m ^OPTIONS$"
    assert f"`{given}`" in (REPOSITORY / "compose" / "RULES.md").read_text()
    assert given.partition(" | ")[0] in (Settings.model_fields["skip"].description or "")
    proxy = mitmdump(upstream.url, addon_options(collector, skip=given))
    for method, target in (("GET", "/health"), ("OPTIONS", "/x")):
        exchange(proxy.port, method, target)
    hidden = ["/x", "/x?x=/health", "/x#/health", "/x/health", "/health/x", "/health?x", "//x//h/health"]
    for target in hidden:
        exchange(proxy.port, target=target)
    exchange(proxy.port, "POST_OPTIONS")
    exchange(proxy.port, target="/x", headers=[("Host", "h/health?")])  # refused: not a host
    collector.wait_for(len(hidden) + 1)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["delivered"] == len(hidden) + 1


def test_a_filter_that_is_none_ends_the_start() -> None:
    ended = failed_start(None, addon_options(skip="~nonsense ("))
    assert ended.code == 1
    assert "skip: '~nonsense (' is no filter expression" in ended.output


HOOKS = """
    def skip(exchange): return exchange.target == "/skip"
    def identify_user(exchange): return exchange.request_headers["x-key"].upper()
    def identify_company(exchange): return {"a": 1}["missing"]
    def session_token(exchange): return "session-" + str(exchange.status)
    def metadata(exchange): return {"tier": "gold", "size": len(exchange.response_body or b"")}
    def mask(event):
        if event["request"]["uri"].endswith("/mask-fails"):
            raise ValueError("s3cret")
        event["response"]["body"].pop("ok")
        return event
"""


def test_hooks_of_the_embedder(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "hooks.py"
    path.write_text(textwrap.dedent(HOOKS))
    collector.rules = [rule("r1", "user")]
    collector.config = {"user_rules": {"BLOCKED": [{"rules": "r1", "values": {}}]}}
    proxy = governed(mitmdump, collector, upstream, hooks=str(path), company_id_header="x-org")
    exchange(proxy.port, target="/seen", headers=[("X-Key", "ada"), ("X-Org", "acme")])
    exchange(proxy.port, target="/skip", headers=[("X-Key", "ada")])
    exchange(proxy.port, target="/mask-fails", headers=[("X-Key", "ada")])
    (event,) = collector.wait_for(1)
    assert event["user_id"] == "ADA"
    assert event["company_id"] == "acme"
    assert event["session_token"] == "session-200"
    assert event["metadata"]["tier"] == "gold"
    assert event["metadata"]["size"] == 12
    assert event["response"]["body"] == {}
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], {"ok": True}))
    until_status(proxy.port, 429, headers=[("X-Key", "blocked")])
    assert proxy.stop() == 0
    causes = exit_counts(proxy.output)["causes"]
    assert causes["skipped"] == 1
    assert causes["mask_failed"] >= 1
    assert "a fault in hook identify_company" in proxy.output
    assert "s3cret" not in proxy.output


@pytest.mark.parametrize(("fail", "status"), [("open", 200), ("closed", 503)])
def test_an_error_while_rules_are_evaluated(
    fail: str, status: int, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A fault is planted in the evaluation itself, by another script in the same process."""
    saboteur = tmp_path / "saboteur.py"
    saboteur.write_text(
        "from mitmproxy_moesif.governance.snapshot import Snapshot\n"
        "def broken(*_): raise RuntimeError('planted')\n"
        "Snapshot.decide = Snapshot.needs_body = broken\n"
    )
    rules = tmp_path / "rules.yaml"
    rules.write_text(LOCAL)
    proxy = mitmdump(
        upstream.url,
        addon_options(collector, rules_file=str(rules), governance_fail=fail),
        scripts=[ADDON_SCRIPT, saboteur],
    )
    with Client(proxy.port) as client:
        client.send(encode_request("POST", "/", body=b"{}"))
        answer = client.read_response("POST")
    assert answer is not None
    assert answer.status == status
    (event,) = collector.wait_for(1)
    assert event["response"]["status"] == status
    assert "a fault in governance" in proxy.output


KINDS = {"user": ("X-User", "ada"), "company": ("X-Org", "acme"), "regex": None}
COHORT = [{"rules": f"r{number}", "values": {}} for number in range(100)]


def every_combination() -> list[tuple[str, str, dict[str, Any], bool, bool]]:
    """Kind of rule, caller, the rule's fields, whether it applies, whether it blocks."""
    cases = []
    for kind, caller, applied_to, unidentified, block in product(
        KINDS, ("in", "out", "nobody"), ("matching", "not_matching"), (False, True), (False, True)
    ):
        fields = {"applied_to": applied_to, "applied_to_unidentified": unidentified, "block": block}
        if kind == "regex":
            applies = True
        elif caller == "nobody":
            applies = unidentified
        else:
            applies = (caller == "in") is (applied_to == "matching")
        cases.append((kind, caller, fields, applies, block))
    return cases


def test_every_combination_of_kind_caller_and_block(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """Each combination is a rule of its own on a route of its own, all in one proxy."""
    cases = every_combination()
    collector.rules = [
        rule(f"r{number}", kind, **fields, regex_config=when(("request.route", f"^/{number}$")))
        for number, (kind, _, fields, _, _) in enumerate(cases)
    ]
    collector.rules.append(rule("marker", regex_config=when(("request.route", "^/marker$"))))
    collector.config = {"user_rules": {"ada": COHORT}, "company_rules": {"acme": COHORT}}
    proxy = governed(mitmdump, collector, upstream, user_id_header="x-user", company_id_header="x-org")
    until_status(proxy.port, 429, target="/marker")
    for number, (kind, caller, fields, applies, block) in enumerate(cases):
        name = KINDS[kind]
        headers = [(name[0], name[1] if caller == "in" else "someone")] if name and caller != "nobody" else []
        answer = exchange(proxy.port, target=f"/{number}", headers=headers)
        assert answer is not None
        told = (kind, caller, fields)
        assert answer.status == (429 if applies and block else 200), told
        assert (answer.get("x-rule") == f"r{number}") is applies, told
        reached = any(request.path == f"/{number}" for request in upstream.requests())
        assert reached is not (applies and block), told

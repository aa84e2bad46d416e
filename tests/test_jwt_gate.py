"""The gate through the real mitmdump, beside Moesif's addon in either order, and alone."""

from __future__ import annotations

import base64
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.jwt_gate.settings import GateSettings
from tests.jwt_gate.signing import (
    SECRET,
    bearer,
    hmac_token,
    jwk,
    private_pem,
    public_pem,
    rsa_key,
    token,
    unsigned_token,
    write_jwks,
)
from tests.support import wire
from tests.support.addon import addon_options, exit_counts, only_event
from tests.support.client import Client, RawResponse, exchange
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Upstream
from tests.support.proxy import BIN, Mitmdump, Option, failed_start
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]

LATER, EARLIER = int(time.time()) + 86_400, int(time.time()) - 86_400
VALID, EXPIRED = {"sub": "ada", "exp": LATER}, {"sub": "ada", "exp": EARLIER}

BOTH = ["MoesifAddon(), JwtGate()", "JwtGate(), MoesifAddon()"]
ALONE = "JwtGate()"

SCRIPT = """
from mitmproxy_moesif.jwt_gate.addon import JwtGate
from mitmproxy_moesif.addon import MoesifAddon

addons = [{addons}]
"""

LIVE = """
from mitmproxy import ctx, exceptions, http

def request(flow):
    if change := flow.request.headers.get("x-change"):
        try:
            ctx.options.set(*change.split(" "))
            answer = "taken"
        except exceptions.OptionsError as error:
            answer = str(error)
        flow.response = http.Response.make(200, answer.encode())
"""


def script(folder: Path, addons: str = ALONE) -> Path:
    path = folder / "gated.py"
    path.write_text(SCRIPT.format(addons=addons))
    return path


def test_what_has_no_effect_while_the_gate_is_off_ends_the_start(tmp_path: Path) -> None:
    ended = failed_start(None, {"jwt_required": True, "jwt_key": SECRET}, scripts=(script(tmp_path),))
    assert "JWT gate: no effect without jwt_gate: jwt_required, jwt_key" in ended.output
    assert SECRET not in ended.output


def gate_options(**options: Option) -> dict[str, Option]:
    return {f"jwt_{name}": value for name, value in {"gate": True, **options}.items()}


@pytest.fixture
def gated(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> Start:
    """Starts a proxy with the gate alone, and other scripts before and after it."""

    def start(before: str = "", after: str = "", **options: Option) -> Mitmdump:
        scripts = [script(tmp_path)]
        for name, text in (("before", before), ("after", after)):
            path = tmp_path / f"{name}.py"
            path.write_text(textwrap.dedent(text))
            scripts = [path, *scripts] if name == "before" else [*scripts, path]
        return mitmdump(upstream.url, gate_options(**options), scripts=scripts)

    return start


def ask(proxy: Mitmdump, *headers: tuple[str, str], **request: Any) -> RawResponse:
    answer = exchange(proxy.port, headers=headers, **request)
    assert answer is not None
    return answer


def said(answer: RawResponse) -> tuple[int, bytes]:
    return answer.status, answer.body


# --- refused and captured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("addons", BOTH)
def test_expired_is_refused_before_the_upstream_and_captured(
    addons: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options = addon_options(collector) | gate_options()
    proxy = mitmdump(upstream.url, options, scripts=[script(tmp_path, addons)])
    bodies = [(None, False), (b'{"n": 1}', False), (b'{"n": 1}', True), (b"x" * 300_000, False), (b"x" * 300_000, True)]
    refused = []
    with Client(proxy.port) as client:
        for body, chunked in bodies:
            for target, claims in (("/refused", EXPIRED), ("/passes", VALID)):
                answer = client.exchange("POST", target, [bearer(hmac_token(claims))], body, chunked=chunked)
                assert answer is not None
                if target == "/passes":
                    assert said(answer) == (200, b'{"ok": true}')
                    continue
                refused.append(answer)
                assert said(answer) == (401, b"JwtError: token expired")
                assert answer.get_all("content-length") == ["23"]
                assert answer.get("content-type") == "text/plain"
                assert answer.get("cache-control") == "no-store"
                challenge = 'Bearer error="invalid_token", error_description="token expired"'
                assert answer.get("www-authenticate") == challenge
    assert [request.path for request in upstream.requests()] == ["/passes"] * len(bodies)
    events = {event["transaction_id"]: event for event in collector.wait_for(2 * len(bodies))}
    for answer, (body, _) in zip(refused, bodies, strict=True):
        event = events[answer.get("x-moesif-transaction-id") or ""]
        assert event["response"]["status"] == 401
        assert base64.b64decode(event["response"]["body"]) == b"JwtError: token expired"
        assert event["user_id"] == "ada"
        assert event["metadata"]["error"] == "token_expired"
        assert event["request"].get("body") == ({"n": 1} if body is not None and len(body) < 100 else None)
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["captured"] == 2 * len(bodies)
    assert "Traceback" not in proxy.output


@pytest.mark.parametrize("addons", BOTH)
def test_a_forged_token_names_nobody(
    addons: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options = addon_options(collector, credential_headers="send") | gate_options(key=SECRET)
    proxy = mitmdump(upstream.url, options, scripts=[script(tmp_path, addons)])
    assert ask(proxy, bearer(hmac_token(VALID, "another key, long enough for it"))).status == 401
    assert ask(proxy, ("Authorization", "Basic")).status == 200
    forged, passed = sorted(collector.wait_for(2), key=lambda event: -event["response"]["status"])
    assert forged["metadata"]["error"] == "token_invalid"
    assert "user_id" not in forged
    assert "error" not in passed.get("metadata", {})


def test_off_by_default(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    proxy = mitmdump(upstream.url, scripts=[script(tmp_path)])
    assert ask(proxy, bearer(hmac_token(EXPIRED, "another"))).status == 200


def test_it_can_be_off_for_a_while(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    changer = tmp_path / "changer.py"
    changer.write_text(LIVE)
    given = gate_options(key=SECRET, claim_headers="sub:X-Sub")
    proxy = mitmdump(upstream.url, given, scripts=[changer, script(tmp_path)])
    change = exchange(proxy.port, headers=[("X-Change", "jwt_gate=false")])
    assert change is not None
    assert change.body == b"taken"
    answer = ask(proxy, bearer(hmac_token(EXPIRED, "another")))
    assert (answer.status, answer.get("x-sub")) == (200, None)
    proxy.wait_for_output("JWT gate: no effect without jwt_gate: jwt_claim_headers, jwt_key")


def test_head_gets_the_head_of_the_refusal_alone(gated: Start) -> None:
    proxy = gated()
    with Client(proxy.port) as client:
        for _ in range(2):  # a body would be taken for the start of the next answer
            answer = client.exchange("HEAD", "/", [bearer(hmac_token(EXPIRED))])
            assert answer is not None
            assert (answer.status, answer.get("content-length"), answer.body) == (401, "23", b"")


@pytest.mark.parametrize("addons", BOTH)
def test_over_http2(
    addons: str, mitmdump: Start, collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    options = addon_options(collector) | gate_options(claim_headers="sub:JWT-username")
    options["ssl_verify_upstream_trusted_ca"] = str(h2_upstream.ca_path)
    proxy = mitmdump(h2_upstream.url, options, scripts=[script(tmp_path, addons)])
    expired = [("authorization", bearer(hmac_token(EXPIRED))[1])]
    with H2Client(proxy.port) as client:
        for method, body in (("POST", b'{"n": 1}'), ("GET", b""), ("HEAD", b"")):
            answer = client.exchange(method, "/refused", expired, body)
            assert (answer.status, answer.get("content-length")) == (401, "23")
            assert answer.body == (b"" if method == "HEAD" else b"JwtError: token expired")
            assert answer.get("jwt-username") is None
        answer = client.exchange("POST", "/", [("authorization", bearer(hmac_token(VALID))[1])], b"{}")
        assert (answer.status, answer.get("jwt-username")) == (200, "ada")
    assert len(h2_upstream.requests()) == 1
    events = collector.wait_for(4)
    assert sorted(event["response"]["status"] for event in events) == [200, 401, 401, 401]


OK = (200, b'{"ok": true}')


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        (
            {"exit_code": 403},
            [([], OK), ([bearer("opaque")], OK), ([bearer(hmac_token(EXPIRED))], (403, b"token expired"))],
        ),
        ({"leeway": 86_400}, [([bearer(hmac_token({"exp": EARLIER + 600}))], OK)]),
        (
            {"required": True},
            [
                ([], (401, b"token required")),
                ([("Authorization", "Basic YTpi")], (401, b"token required")),
                ([bearer("opaque")], (401, b"invalid token")),
                ([bearer(hmac_token(VALID), "bearer")], OK),
            ],
        ),
        (
            {"key": SECRET},
            [
                ([], OK),
                ([bearer(hmac_token(VALID))], OK),
                ([bearer(hmac_token(VALID, "another"))], (401, b"invalid token")),
                ([bearer(unsigned_token(VALID))], (401, b"invalid token")),
                ([bearer(hmac_token({"nbf": LATER}))], (401, b"token not yet valid")),
                ([bearer(hmac_token(VALID)), ("Authorization", "Basic YTpi")], (401, b"invalid token")),
            ],
        ),
    ],
)
def test_what_passes_and_what_is_answered(
    options: dict[str, Option], cases: list[tuple[Any, tuple[int, bytes]]], gated: Start, upstream: ScriptedUpstream
) -> None:
    proxy = gated(**options)
    for headers, (status, text) in cases:
        answer = ask(proxy, *headers)
        assert said(answer) == (status, text if status == 200 else b"JwtError: " + text)
        assert (answer.get("www-authenticate") is not None) == (status == 401)
    assert len(upstream.requests()) == sum(status == 200 for _, (status, _) in cases)
    assert proxy.stop() == 0
    assert SECRET not in proxy.output
    assert "Traceback" not in proxy.output


# --- claims --------------------------------------------------------------------------------------------------------


def test_claims_become_response_headers_and_moesif_s_user(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    wanted = ["username:JWT-username", "level:X-Level", "https://example.com/org:X-Org", "list:X-List"]
    options = addon_options(collector, user_id_header="jwt-username") | gate_options(claim_headers=wanted)
    proxy = mitmdump(upstream.url, options, scripts=[script(tmp_path, BOTH[0])])
    upstream.handler = lambda _, connection: connection.send(
        wire.response(200, [("jwt-username", "spoofed"), ("X-List", "upstream's")], b"{}")
    )
    claims = {"username": "Zoë", "level": 2**64, "https://example.com/org": "acme", "list": [1], "sub": "no"}
    answer = ask(proxy, bearer(hmac_token(claims)))
    names = ("jwt-username", "x-level", "x-org", "x-list")
    texts = ["Zoë".encode().decode("latin-1"), str(2**64), "acme", "upstream's"]
    assert [answer.get_all(name) for name in names] == [[text] for text in texts]
    assert only_event(collector)["user_id"] == "Zoë"


@pytest.mark.parametrize("addons", BOTH)
@pytest.mark.parametrize("name", ["JWT-username", "jwt-USERNAME", "JWT_username"])
def test_what_a_client_says_of_itself_is_not_believed(
    name: str, addons: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The user of rules and event is the token's, wherever the gate stands; the upstream hears of no other."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules: [{_id: quota, type: user, block: true, response: {status: 429}}]\nuser_rules: {ada: [{rules: quota}]}\n"
    )
    options = addon_options(collector, user_id_header="jwt-username", rules_file=str(rules))
    options |= gate_options(key=SECRET, claim_headers="username:JWT-username")
    proxy = mitmdump(upstream.url, options, scripts=[script(tmp_path, addons)])
    statuses = {}
    for user in ("ada", "bob"):
        token_of = bearer(hmac_token({"username": user, "sub": "someone"}))
        statuses[user] = ask(proxy, token_of, (name, "eve"), (name, "bob")).status
    assert statuses == {"ada": 429, "bob": 200}
    assert [event["user_id"] for event in collector.wait_for(2)] == ["ada", "bob"]
    (request,) = upstream.requests()
    assert request.get(name) is None
    assert "eve" not in str(collector.events())


@pytest.mark.parametrize("addons", [*BOTH, ALONE])
def test_a_head_that_can_be_read_in_two_ways_does_not_pass_the_gate(
    addons: str, mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options = addon_options(sink_file=str(tmp_path / "events")) if addons != ALONE else {}
    proxy = mitmdump(upstream.url, options | gate_options(key=SECRET), scripts=[script(tmp_path, addons)])
    forged = hmac_token(VALID, "another")
    for value in (f"a\rAuthorization: Bearer {forged}", f"a\0Authorization: Bearer {forged}"):
        assert ask(proxy, ("X", value)).status == 400
    assert ask(proxy, ("Authorization", "Bearer"), ("Authorization", "x")).status == 401
    assert not upstream.requests()


def test_trailers_say_nothing_of_the_caller(mitmdump: Start, h2_upstream: H2Upstream, tmp_path: Path) -> None:
    options = gate_options(key=SECRET, claim_headers="sub:X-User")
    options["ssl_verify_upstream_trusted_ca"] = str(h2_upstream.ca_path)
    proxy = mitmdump(h2_upstream.url, options, scripts=[script(tmp_path)])
    trailers = [("authorization", "Bearer forged"), ("x-user", "eve"), ("x-checksum", "1")]
    with H2Client(proxy.port) as client:
        assert client.exchange("POST", "/", body=b"{}", trailers=trailers).status == 200
    (request,) = h2_upstream.requests()
    assert request.trailers == [("x-checksum", "1")]


def test_a_claim_adds_no_header_and_no_body(gated: Start) -> None:
    proxy = gated(claim_headers=["sub:X-Sub"])
    answer = ask(proxy, bearer(hmac_token({"sub": "a\r\nX-Injected: 1\r\n\r\n<html>\0"})))
    assert answer.get("x-sub") == "a??X-Injected: 1????<html>?"
    assert answer.get("x-injected") is None
    assert said(answer) == (200, b'{"ok": true}')
    assert answer.head.count(b"\r\n") == len(answer.headers) + 2


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_public_key_and_no_confusion_of_algorithms(gated: Start, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(rsa_key()))
    proxy = gated(public_key=str(path))
    proxy.wait_for_output("JWT gate: tokens are verified with 1 key: PS256, PS384, PS512, RS256, RS384, RS512")
    assert ask(proxy, bearer(token(VALID, rsa_key(), "RS256"))).status == 200
    assert said(ask(proxy, bearer(token(EXPIRED, rsa_key(), "RS256")))) == (401, b"JwtError: token expired")
    forged = hmac_token(VALID, path.read_bytes())
    assert said(ask(proxy, bearer(forged))) == (401, b"JwtError: invalid token")


def test_keys_are_rotated_live_and_a_broken_file_leaves_the_old_ones(gated: Start, tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "keys.json", jwk(rsa_key(0), kid="0"))
    proxy = gated(after=LIVE, jwks=str(path))
    tokens = [bearer(token(VALID, rsa_key(number), "RS256", kid=str(number))) for number in (0, 1)]

    def statuses() -> list[int]:
        return [ask(proxy, each).status for each in tokens]

    def change(text: str) -> str:
        return ask(proxy, ("X-Change", text)).body.decode()

    assert statuses() == [200, 401]
    write_jwks(path, jwk(rsa_key(0), kid="0"), jwk(rsa_key(1), kid="1"))
    assert change(f"jwt_jwks={path}") == "taken"
    assert statuses() == [200, 200]
    path.write_text("{")
    assert change("jwt_jwks=/none") == "JWT gate: jwt_jwks: '/none' cannot be read: No such file or directory"
    assert statuses() == [200, 200]
    assert change(f"jwt_jwks={path}") == "taken"  # what was in force, set again
    proxy.wait_for_output(f"jwt_jwks: '{path}' is not JSON; keeping the earlier keys")
    assert statuses() == [200, 200]
    assert "Traceback" not in proxy.output


def test_live_changes_count_at_once_or_are_refused(gated: Start) -> None:
    proxy = gated(after=LIVE)
    expired = bearer(hmac_token(EXPIRED))

    def change(text: str) -> str:
        return ask(proxy, ("X-Change", text)).body.decode()

    assert ask(proxy, expired).status == 401
    assert change("jwt_exit_code=403") == "taken"
    assert ask(proxy, expired).status == 403
    assert "jwt_exit_code: should be less than or equal to 599, 700 was given" in change("jwt_exit_code=700")
    assert "only one of them may be given" in change(f"jwt_key={SECRET} jwt_jwks=/x")
    assert ask(proxy, expired).status == 403
    assert change("jwt_gate=false") == "taken"
    assert ask(proxy, expired).status == 200
    assert change("jwt_gate=true") == "taken"
    assert ask(proxy, expired).status == 403


# --- at the start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"jwt_gate": "maybe"}, "jwt_gate: must be true or false, 'maybe' was given"),
        ({"jwt_exit_code": "x"}, "jwt_exit_code: must be a whole number, 'x' was given"),
        ({"jwt_key": [SECRET, "b"]}, "jwt_key: must be one text, a value not shown here was given"),
        ({"jwt_key": ""}, "jwt_key: must not be empty, a value not shown here was given"),
        ({"jwt_algorithms": "RS256", "jwt_key": SECRET}, "jwt_algorithms: RS256 verifies with public keys"),
        ({"jwt_jwks": "/none"}, "jwt_jwks: '/none' cannot be read: No such file or directory"),
        ({"jwt_public_key": private_pem(rsa_key()).decode()}, "jwt_public_key: expected the name of a file"),
        ({"jwt_gat": True}, "jwt_gat: there is no such option; did you mean jwt_gate?"),
        ({"jwt-gate": True}, "jwt-gate: there is no such option; did you mean jwt_gate?"),
    ],
)
def test_a_bad_start_ends_with_one_line(options: dict[str, Option], line: str, tmp_path: Path) -> None:
    given = {**addon_options(), "jwt_gate": True, **options}
    ended = failed_start(None, given, scripts=[script(tmp_path, BOTH[0])])
    assert ended.code == 1
    lines = [text for text in ended.output.splitlines() if "JWT gate:" in text]
    assert len(lines) == 1
    assert line in lines[0]
    assert "Traceback" not in ended.output
    assert SECRET not in ended.output
    assert "PRIVATE KEY" not in ended.output


def test_a_value_of_the_wrong_type_in_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("jwt_gate: true\njwt_claim_headers: username:X-User\n")
    ended = failed_start(None, folder=tmp_path, scripts=[script(tmp_path)])
    assert ended.code == 1
    assert "JWT gate: jwt_claim_headers: must be a list of texts, 'username:X-User' was given" in ended.output
    assert "Traceback" not in ended.output


def test_the_command_line_comes_before_the_configuration_file(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("jwt_gate: false\njwt_exit_code: 499\n")
    proxy = mitmdump(upstream.url, {"jwt_gate": True}, scripts=[script(tmp_path)], folder=tmp_path)
    assert ask(proxy, bearer(hmac_token(EXPIRED))).status == 499


def test_options_are_listed_with_their_help(tmp_path: Path) -> None:
    listed = subprocess.run(
        [BIN / "mitmdump", "-s", script(tmp_path), "--options"], capture_output=True, text=True, check=True
    )
    for name in GateSettings.model_fields:
        assert f"\n{name}:" in listed.stdout
    assert "JWT gate:" not in listed.stderr


def test_what_protects_little_is_told(gated: Start) -> None:
    gated().wait_for_output("JWT gate: no key is given: tokens are read, not verified")
    gated(key="short").wait_for_output("JWT gate: a key is shorter than its algorithm requires")


# --- closed --------------------------------------------------------------------------------------------------------

BROKEN = f"""
from mitmproxy_moesif.jwt_gate.tokens import Rules
def broken(*_): raise RuntimeError({SECRET!r})
Rules.decide = broken
"""


def test_a_fault_refuses_and_is_told_once(gated: Start, upstream: ScriptedUpstream) -> None:
    proxy = gated(after=BROKEN, exit_code=403)
    for _ in range(3):
        answer = ask(proxy, bearer(hmac_token(VALID)))
        assert said(answer) == (403, b"JwtError: the token could not be checked")
    assert not upstream.requests()
    proxy.wait_for_output(
        "JWT gate: a fault, the request is refused: RuntimeError at before.py" if False else "a fault"
    )
    assert proxy.output.count("JWT gate: a fault") == 1
    assert SECRET not in proxy.output


@pytest.mark.parametrize("streamed", [False, True])
def test_the_fault_of_another_addon_opens_nothing(streamed: bool, gated: Start, upstream: ScriptedUpstream) -> None:
    """mitmproxy asks no further addon once one has failed. What was streamed to the upstream by then gets no answer."""
    proxy = gated(
        before=f"""
        def requestheaders(flow):
            flow.request.stream = {streamed}
            raise ValueError("other people's fault")
        """
    )
    answers = [
        exchange(proxy.port, "POST", headers=[bearer(hmac_token(claims))], body=b"{}") for claims in (VALID, EXPIRED)
    ]
    assert [answer.status if answer is not None else None for answer in answers] == [200, None if streamed else 401]
    assert len(upstream.requests()) == 1 or streamed


def test_a_request_that_another_addon_streams_is_refused_all_the_same(gated: Start, upstream: ScriptedUpstream) -> None:
    proxy = gated(before="def requestheaders(flow): flow.request.stream = True")
    for _ in range(2):
        answer = ask(proxy, bearer(hmac_token(EXPIRED)), method="POST", body=b"x" * 300_000)
        assert said(answer) == (401, b"JwtError: token expired")
    assert not upstream.requests()


def test_an_answer_by_another_addon_is_no_way_around(gated: Start) -> None:
    proxy = gated(
        before="""
        from mitmproxy import http
        def requestheaders(flow):
            if status := flow.request.headers.get("x-answer"):
                flow.response = http.Response.make(int(status), b"secret")
        """
    )
    expired = bearer(hmac_token(EXPIRED))
    assert said(ask(proxy, ("X-Answer", "200"))) == (200, b"secret")
    assert said(ask(proxy, expired, ("X-Answer", "200"))) == (401, b"JwtError: token expired")
    assert ask(proxy, expired, ("X-Answer", "429")).status == 429


def test_a_reload_with_a_broken_key_file_closes_the_gate(gated: Start, tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "keys.json", jwk(rsa_key()))
    proxy = gated(after=LIVE, jwks=str(path))
    good = bearer(token(VALID, rsa_key(), "RS256"))
    assert ask(proxy, good).status == 200
    path.write_text("{")
    script(tmp_path)  # written anew: mitmproxy loads it again
    proxy.wait_for_output("is not JSON")
    assert said(ask(proxy, good)) == (401, b"JwtError: the token could not be checked")
    write_jwks(path, jwk(rsa_key()))
    script(tmp_path)
    proxy.wait_for_output("tokens are verified with 1 key", count=2)
    assert ask(proxy, good).status == 200

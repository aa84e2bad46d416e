"""The gate as it is really started: mitmdump with the package's script, and moesif-proxy, alone and with workers."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.jwt_gate.signing import (
    SECRET,
    bearer,
    hmac_token,
    jwk,
    public_pem,
    rsa_key,
    token,
    unsigned_token,
    write_jwks,
)
from tests.support.addon import addon_options, exit_counts
from tests.support.client import RawResponse, exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import ScriptedUpstream

LATER, EARLIER = int(time.time()) + 86_400, int(time.time()) - 86_400
VALID, EXPIRED = {"sub": "ada", "exp": LATER}, {"sub": "ada", "exp": EARLIER}
SECONDS = 20

Start = Callable[..., Mitmdump]


@pytest.fixture(params=["script", "moesif-proxy", "two workers"])
def gated(request: pytest.FixtureRequest, collector: ScriptedCollector, upstream: ScriptedUpstream) -> Iterator[Start]:
    """Starts a proxy with capture and gate; the latter's options without their prefix."""
    with ExitStack() as started:

        def start(**options: Option) -> Mitmdump:
            given = addon_options(collector, shutdown_timeout=5000)
            given |= {f"jwt_{name}": value for name, value in {"gate": True, **options}.items()}
            if request.param == "script":
                return started.enter_context(Mitmdump(upstream.url, given))
            workers = 2 if request.param == "two workers" else 1
            return started.enter_context(MoesifProxy(upstream.url, given, workers=workers))

        yield start


def ask(proxy: Mitmdump, *headers: tuple[str, str]) -> RawResponse:
    answer = exchange(proxy.port, headers=headers)
    assert answer is not None
    return answer


def test_each_refused_request_is_one_event_and_reaches_no_upstream(
    gated: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(public_pem(rsa_key()))
    proxy = gated(public_key=str(key), required=True)
    good = bearer(token(VALID, rsa_key(), "RS256"))
    refused: dict[str, list[tuple[tuple[str, str], ...]]] = {
        "token required": [()],
        "token expired": [(bearer(token(EXPIRED, rsa_key(), "RS256"), "bearer"),)],
        "token not yet valid": [(bearer(token({"nbf": LATER}, rsa_key(), "RS256")),)],
        "invalid token": [
            (bearer(unsigned_token(VALID)),),
            (bearer(hmac_token(VALID, key.read_bytes())),),
            (bearer(token(VALID, rsa_key(1), "RS256")),),
            (good, good),
            (good, ("authorization", "Basic YTpi")),
            (bearer("x" * 50_000),),
        ],
    }
    answers = {}
    for reason, cases in refused.items():
        for headers in cases:
            answer = ask(proxy, *headers)
            assert (answer.status, answer.body) == (401, f"JwtError: {reason}".encode())
            assert (answer.get("www-authenticate") or "").startswith("Bearer")
            answers[answer.get("x-moesif-transaction-id")] = answer
    assert ask(proxy, good).status == 200
    assert len(upstream.requests()) == 1
    events = collector.wait_for(len(answers) + 1)
    assert len(events) == len({event["transaction_id"] for event in events}) == len(answers) + 1 == 10
    for event in events:
        if (told := answers.get(event["transaction_id"])) is not None:
            assert event["response"]["status"] == 401
            assert base64.b64decode(event["response"]["body"]) == told.body
        else:
            assert event["response"]["status"] == 200
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["captured"] == 10
    assert "Traceback" not in proxy.output


def test_who_calls_is_known_as_without_the_gate(gated: Start, collector: ScriptedCollector) -> None:
    proxy = gated(key=SECRET, claim_headers="sub:X-User")
    assert ask(proxy, bearer(hmac_token(VALID))).get("x-user") == "ada"
    assert ask(proxy, bearer(hmac_token({**EXPIRED, "sub": "bob"}))).get("x-user") is None
    assert ask(proxy, ("Authorization", "Basic Y2Fyb2w6c2VjcmV0")).status == 200
    users = {(event["user_id"], event["response"]["status"]) for event in collector.wait_for(3)}
    assert users == {("ada", 200), ("bob", 401), ("carol", 200)}


CLAIMS: list[tuple[Any, str | None]] = [
    ("a\r\nSet-Cookie: s=1\r\n\r\n<html>", "a??Set-Cookie: s=1????<html>"),
    ("a\0b", "a?b"),
    ("Zoë 🦊", "Zoë 🦊"),
    ("\ud800", "?"),
    ({"a": 1}, None),
    (["a"], None),
    (None, None),
    ("x" * 5000, None),
]


def test_what_a_claim_holds_breaks_nothing(gated: Start, collector: ScriptedCollector) -> None:
    proxy = gated(key=SECRET, claim_headers="name:X-Name")
    expected = {}
    for claim, text in CLAIMS:
        answer = ask(proxy, bearer(hmac_token({"name": claim})))
        assert (answer.status, answer.body) == (200, b'{"ok": true}')
        found = answer.get("x-name")
        assert (found.encode("latin-1").decode() if found is not None else None) == text
        assert answer.get("set-cookie") is None
        expected[answer.get("x-moesif-transaction-id")] = text
    events = collector.wait_for(len(CLAIMS))
    assert {event["transaction_id"]: event["response"]["headers"].get("x-name") for event in events} == expected


def test_a_token_of_a_megabyte_is_refused_or_the_connection_is(gated: Start, upstream: ScriptedUpstream) -> None:
    proxy = gated(key=SECRET)
    answer = exchange(proxy.port, headers=[bearer("x" * 1_000_000)])
    assert answer is None or answer.status in (400, 401, 431)
    assert ask(proxy, bearer(hmac_token(VALID))).status == 200
    assert len(upstream.requests()) == 1


# --- rotation


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_jwks(tmp_path / "keys.json", jwk(rsa_key(0), kid="0"))


TOKENS = [bearer(token(VALID, rsa_key(number), "RS256", kid=str(number))) for number in (0, 1)]


def statuses(proxy: Mitmdump) -> list[int]:
    """With the old key and with the new one."""
    return [ask(proxy, each).status for each in TOKENS]


def test_a_new_file_of_keys_counts_by_itself_and_a_broken_one_does_not(
    gated: Start, keys: Path, request: pytest.FixtureRequest
) -> None:
    proxy = gated(jwks=str(keys))
    processes = 2 if "two workers" in request.node.name else 1  # each reads the file, and says so
    read, kept = "JWT gate: tokens are verified with 1 key", "keeping the earlier keys"
    assert statuses(proxy) == [200, 401]
    new = write_jwks(keys.with_name("new.json"), jwk(rsa_key(1), kid="1"))
    new.replace(keys)
    proxy.wait_for_output(read, SECONDS, 2 * processes)
    assert statuses(proxy) == [401, 200]
    keys.write_text("{")
    proxy.wait_for_output(f"JWT gate: jwt_jwks: '{keys}' is not JSON; {kept}", SECONDS, processes)
    assert statuses(proxy) == [401, 200]
    keys.unlink()
    proxy.wait_for_output(f"No such file or directory; {kept}", SECONDS, processes)
    assert statuses(proxy) == [401, 200]
    write_jwks(keys, jwk(rsa_key(0), kid="0"))
    proxy.wait_for_output(read, SECONDS, 3 * processes)
    assert statuses(proxy) == [200, 401]
    assert proxy.stop() == 0
    assert "Traceback" not in proxy.output


@pytest.mark.parametrize("changed", [False, True], ids=["nothing else", "another option"])
def test_sighup_reads_the_keys_at_once(
    changed: bool, collector: ScriptedCollector, upstream: ScriptedUpstream, keys: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_debug: false\n")
    given = addon_options(collector) | {"jwt_gate": True, "jwt_jwks": str(keys)}
    with MoesifProxy(upstream.url, given, "--config", str(config)) as proxy:
        assert statuses(proxy) == [200, 401]
        write_jwks(keys, jwk(rsa_key(1), kid="1"))
        config.write_text(f"moesif_debug: {str(changed).lower()}\n")
        proxy.send_signal(signal.SIGHUP)
        what = "moesif_debug" if changed else "no option"
        proxy.wait_for_output(f"the configuration was read again: {what} changed\n")
        assert statuses(proxy) == [401, 200]
        keys.write_text("{")
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_output("is not JSON; keeping the earlier keys")
        proxy.wait_for_output("; the keys stay as they were: JWT gate: jwt_jwks: ")
        assert statuses(proxy) == [401, 200]

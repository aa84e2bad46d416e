"""Moesif's rules on the request path: an answer in place of the upstream's, or headers on it.

Decided when the request's headers are there, so that bodies still stream. Only a request that a rule on the body could
concern is held back until its body is known, up to the limit for request bodies; a larger one matches no such rule.
"""

from __future__ import annotations

from collections.abc import Callable

from mitmproxy import http

from mitmproxy_moesif.capture.flow import peer_of
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.responses import ANNOUNCED, blocked_response
from mitmproxy_moesif.config.user_hooks import HookExchange, UserHooks
from mitmproxy_moesif.event.attributes import Attributes, RequestAttributes, read_attributes
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.identity import Caller
from mitmproxy_moesif.governance.rules import Blocked, Decision
from mitmproxy_moesif.governance.snapshot import Snapshot

type Identify = Callable[[UserHooks, HookExchange, Caller], Caller]


class Enforcer:
    """`identify` asks the embedder's hooks who calls; `fault` is told of an error while rules are evaluated."""

    def __init__(self, identify: Identify, fault: Callable[[str, Exception], None]) -> None:
        self._identify = identify
        self._fault = fault

    def at_headers(self, flow: http.HTTPFlow, entry: PendingExchange, snapshot: Snapshot) -> bool:
        """Decide what can be decided; true where the body has to be known for it."""
        if not snapshot.rules.active or not entry.live or entry.instance.settings.governance == "off":
            return False
        try:
            view, caller = self._read(flow, entry, lambda: None)
            if snapshot.needs_body(view, caller.user_id, caller.company_id) and self._may_wait(flow, entry):
                decision = snapshot.decide(view, caller.user_id, caller.company_id)
                # Of a body of unknown length nobody can tell whether it will fit; what blocks without it, blocks now.
                if decision.block is None or "content-length" in flow.request.headers:
                    return True
            else:
                decision = snapshot.decide(view, caller.user_id, caller.company_id)
            self._apply(flow, entry, decision)
        except Exception as error:  # noqa: BLE001 - open or closed, as configured
            self._failed(flow, entry, error)
        return False

    def at_body(self, flow: http.HTTPFlow, entry: PendingExchange, snapshot: Snapshot) -> None:
        """Decide a request that was held back, its body known."""
        try:
            view, caller = self._read(flow, entry, lambda: flow.request.raw_content)
            self._apply(flow, entry, snapshot.decide(view, caller.user_id, caller.company_id))
        except Exception as error:  # noqa: BLE001 - open or closed, as configured
            self._failed(flow, entry, error)

    def _read(
        self, flow: http.HTTPFlow, entry: PendingExchange, content: Callable[[], bytes | None]
    ) -> tuple[RequestAttributes, Caller]:
        policy, request = entry.instance.policy, flow.request
        announced = flow.metadata.get(ANNOUNCED, {}).items()
        answer = tuple((name.encode(), value.encode()) for name, value in announced)
        facts = read_attributes(entry.request_headers, answer, peer_of(flow), policy)
        method = text(request.data.method)
        view = RequestAttributes(facts, method, request.data.path, content, policy.request.body.limit)
        return view, self._caller(entry, facts, method, request.data.path)

    def _caller(self, entry: PendingExchange, facts: Attributes, method: str, target: bytes) -> Caller:
        hooks, caller = entry.instance.hooks, facts.caller
        if hooks is None:
            return caller
        seen = HookExchange(
            method, text(target), facts.address, facts.request_headers, {}, None, caller.user_id, caller.company_id
        )
        return self._identify(hooks, seen, caller)

    def _may_wait(self, flow: http.HTTPFlow, entry: PendingExchange) -> bool:
        """Whether there can be a body, and one that is not over the limit."""
        length = flow.request.headers.get("content-length")
        if length is None:
            return "transfer-encoding" in flow.request.headers or flow.request.is_http2
        return length.isdigit() and 0 < int(length) <= entry.instance.policy.request.body.limit

    def _apply(self, flow: http.HTTPFlow, entry: PendingExchange, decision: Decision) -> None:
        if decision.block is not None:
            entry.blocked_by = decision.block.rule_id
            flow.response = blocked_response(decision.block, head=flow.request.method.upper() == "HEAD")
        else:
            entry.rule_headers = tuple((name.encode(), value.encode()) for name, value in decision.headers)

    def _failed(self, flow: http.HTTPFlow, entry: PendingExchange, error: Exception) -> None:
        self._fault("governance", error)
        if entry.instance.settings.governance_fail == "closed":
            answer = Blocked("", 503, (("Content-Type", "text/plain"),), b"the request could not be checked")
            flow.response = blocked_response(answer, head=flow.request.method.upper() == "HEAD")

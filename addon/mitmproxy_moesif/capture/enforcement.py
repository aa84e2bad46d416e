"""Moesif's governance rules on the request path: they block a request, or add headers to its response.

Rules are evaluated once the request's headers are there, so that bodies still stream. Only a request that a body rule
could match is held until its body is complete, up to the limit for request bodies. A body that is larger, malformed or
ambiguous matches no body rule; with `governance_fail=closed` the request is refused.

Only the response settles who the caller is: if it names a different one, the rules are evaluated again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mitmproxy import http

from mitmproxy_moesif.capture.flow import has_body, peer_of
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.responses import ANNOUNCED, blocked_response, own_answer, refusal, replace_answer
from mitmproxy_moesif.config.policy import hyphened
from mitmproxy_moesif.config.user_hooks import HookExchange, UserHooks
from mitmproxy_moesif.event.attributes import Attributes, RequestAttributes, read_attributes
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.event.headers import lower_name, text
from mitmproxy_moesif.event.identity import Caller, naming_headers
from mitmproxy_moesif.event.kong_headers import TELLING_HEADERS
from mitmproxy_moesif.governance.rules import Decision
from mitmproxy_moesif.governance.snapshot import RuleBook, Snapshot
from mitmproxy_moesif.kong.normalize import normalize, to_text

type Identify = Callable[[UserHooks, HookExchange, Caller], Caller]

_MARKS = re.compile(rb"[%#\x80-\xff]|//|/\.")  # a path without any of these has only one reading

UNCHECKED = "the request could not be checked"


class Enforcer:
    """`identify` asks the user hooks who the caller is; `fault` reports an error during rule evaluation."""

    def __init__(self, identify: Identify, fault: Callable[[str, Exception], None]) -> None:
        self._identify = identify
        self._fault = fault

    def at_headers(self, flow: http.HTTPFlow, entry: PendingExchange, snapshot: Snapshot) -> bool:
        """Evaluate the rules at the request's headers. True if the body is needed for a decision."""
        if not snapshot.rules.active or not entry.live or entry.instance.settings.governance == "off":
            return False
        if flow.response is not None and flow.response.status_code >= 400:
            return False  # another addon has refused it
        try:
            if names_two_callers(entry, snapshot.rules):
                flow.response = refusal(400, flow.request, "a header that says who calls is there twice")
                return False
            view, caller = self._read(flow, entry, snapshot, lambda: None)
            needed = has_content(flow) and snapshot.needs_body(view, caller.user_id, caller.company_id)
            fits = needed and self._fits(flow, entry)
            decision = snapshot.decide(view, caller.user_id, caller.company_id)
            # A body of unknown length may turn out too large, so a rule that blocks without the body blocks now.
            if fits and (decision.block is None or "content-length" in flow.request.headers):
                return True
            self._apply(flow, entry, decision, unchecked=needed)
        except Exception as error:  # noqa: BLE001 - open or closed, as configured
            self._failed(flow, entry, error)
        return False

    def at_body(self, flow: http.HTTPFlow, entry: PendingExchange, snapshot: Snapshot) -> None:
        """Evaluate the rules for a held request, once its body is complete or known to exceed the limit."""
        try:
            view, caller = self._read(flow, entry, snapshot, lambda: flow.request.raw_content)
            decision = snapshot.decide(view, caller.user_id, caller.company_id)
            self._apply(flow, entry, decision, unchecked=view.unreadable or flow.request.raw_content is None)
        except Exception as error:  # noqa: BLE001 - open or closed, as configured
            self._failed(flow, entry, error)

    def at_answer(self, flow: http.HTTPFlow, entry: PendingExchange, snapshot: Snapshot) -> None:
        """Evaluate the rules again if the upstream's response names a different caller."""
        answer, decided_for = flow.response, entry.caller
        if answer is None or decided_for is None or entry.blocked_by is not None:
            return
        try:
            view, caller = self._read(flow, entry, snapshot, lambda: sent_content(entry), answer.headers.fields)
            if caller != decided_for:
                self._apply(flow, entry, snapshot.decide(view, caller.user_id, caller.company_id))
        except Exception as error:  # noqa: BLE001 - open or closed, as configured
            self._failed(flow, entry, error)
        if flow.response is not None and flow.response is not answer:
            telling = naming_headers(entry.instance.policy.identity) | TELLING_HEADERS  # the event reads them again
            kept = tuple(field for field in answer.headers.fields if lower_name(field[0]) in telling)
            flow.response.headers.fields += kept
            replace_answer(answer, flow.response)
            flow.response = answer

    def _read(
        self,
        flow: http.HTTPFlow,
        entry: PendingExchange,
        snapshot: Snapshot,
        content: Callable[[], bytes | None],
        answer: Fields = (),
    ) -> tuple[RequestAttributes, Caller]:
        policy, request = entry.instance.policy, flow.request.data
        announced = flow.metadata.get(ANNOUNCED, {}).items()
        answer += tuple((name.encode(), value.encode()) for name, value in announced)
        facts = read_attributes(entry.request_headers, answer, peer_of(flow), policy)
        method, limit = text(request.method), policy.request.body.limit
        authority = text(request.authority)
        view = RequestAttributes(facts, entry.request_headers, method, routes(request.path), authority, content, limit)
        caller = self._caller(entry, facts, method, request.path)
        entry.caller = caller if snapshot.rules.ask_who_calls else None
        return view, caller

    def _caller(self, entry: PendingExchange, facts: Attributes, method: str, target: bytes) -> Caller:
        hooks, caller = entry.instance.hooks, facts.caller
        if hooks is None:
            return caller
        seen = HookExchange(
            method,
            text(target),
            facts.address,
            facts.request_headers,
            facts.response_headers,
            None,
            caller.user_id,
            caller.company_id,
        )
        return self._identify(hooks, seen, caller)

    def _fits(self, flow: http.HTTPFlow, entry: PendingExchange) -> bool:
        """Whether a body may be within the limit. True if its length is unknown."""
        length = flow.request.headers.get("content-length")
        return length is None or (length.isdigit() and int(length) <= entry.instance.policy.request.body.limit)

    def _apply(
        self, flow: http.HTTPFlow, entry: PendingExchange, decision: Decision, *, unchecked: bool = False
    ) -> None:
        """`unchecked`: a rule needs the body, but it cannot be read."""
        if decision.block is not None:
            entry.blocked_by = decision.block.rule_id
            flow.response = blocked_response(decision.block, head=flow.request.method.upper() == "HEAD")
        elif not unchecked or not self._refuse_unchecked(flow, entry):
            entry.rule_headers = tuple((name.encode(), value.encode()) for name, value in decision.headers)

    def _failed(self, flow: http.HTTPFlow, entry: PendingExchange, error: Exception) -> None:
        self._fault("governance", error)
        self._refuse_unchecked(flow, entry)

    def _refuse_unchecked(self, flow: http.HTTPFlow, entry: PendingExchange) -> bool:
        closed = entry.instance.settings.governance_fail == "closed"
        if closed:
            flow.response = own_answer(503, UNCHECKED, flow.request)
        return closed


def names_two_callers(entry: PendingExchange, rules: RuleBook) -> bool:
    """Whether a caller's identifying header is there twice and rules use it: services differ in which one they use."""
    used = rules.index.header_names & {"authorization"}
    if rules.ask_who_calls:
        used |= naming_headers(entry.instance.policy.identity)
    if not used:
        return False
    there = [hyphened(name) for raw, _ in entry.request_headers if (name := lower_name(raw)) in used]
    return len(there) > len(set(there))


def routes(target: bytes) -> tuple[str, ...]:
    """The path as the upstream gets it, and as Kong normalizes it (without scheme and host). No duplicates."""
    path = target.partition(b"?")[0]
    if not _MARKS.search(path):
        return (text(path),)
    if b"://" in path and not path.startswith(b"/"):
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    normalized = (to_text(normalize(one)) for one in (path, path.partition(b"#")[0]))
    return tuple(dict.fromkeys((text(path), *normalized)))


def has_content(flow: http.HTTPFlow) -> bool:
    return has_body(flow) and flow.request.headers.get("content-length") != "0"


def sent_content(entry: PendingExchange) -> bytes | None:
    """The request's body, or None if it was not kept."""
    tee = entry.request_tee
    return tee.payload().content() if tee is not None else entry.flow.request.raw_content

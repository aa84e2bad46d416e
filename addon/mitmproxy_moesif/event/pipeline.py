"""Turns a captured exchange into the bytes to send: attributes, user hooks, sampling, masking, encoding."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.user_hooks import HookExchange, UserHooks
from mitmproxy_moesif.event.attributes import Attributes, attributes_of
from mitmproxy_moesif.event.build import build_event
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.identity import Caller
from mitmproxy_moesif.event.size import encode

type Sample = Callable[[Instance, Exchange, Attributes], int | None]
type Fault = Callable[[str, Exception], None]
type Observe = Callable[[Instance, Exchange, Attributes, bytes | NotSent], None]
"""Called with the outcome of each exchange."""

type Finished = Callable[[Mapping[str, Any]], None]
"""Called with a masked event just before it is encoded; never raises."""


class NotSent(Enum):
    """Why a captured exchange has no event."""

    SAMPLED_OUT = "sampled_out"
    SKIPPED = "skipped"
    MASK_FAILED = "mask_failed"


class EventBuilder:
    """Builds events in the background.

    `sample` returns an event's weight, or None if it is not sampled; `fault` is called for an error in a user hook,
    `observe` for each event.
    """

    def __init__(self, sample: Sample, fault: Fault, observe: Observe | None = None) -> None:
        self._sample = sample
        self._fault = fault
        self._observe = observe

    def __call__(self, exchange: Exchange, instance: Instance, finished: Finished | None = None) -> bytes | NotSent:
        """Build one event. `finished` also gets events that Moesif's sampling omits, which is only for Moesif."""
        facts, made = self._make(exchange, instance, finished)
        if self._observe is not None:
            self._observe(instance, exchange, facts, made)
        return made

    def _make(
        self, exchange: Exchange, instance: Instance, finished: Finished | None
    ) -> tuple[Attributes, bytes | NotSent]:
        policy, hooks = instance.policy, instance.hooks
        facts = attributes_of(exchange, policy)
        if hooks is not None:
            seen = hook_exchange(exchange, facts)
            if self._skips(hooks, seen):
                return facts, NotSent.SKIPPED
            facts = replace(facts, caller=identify(hooks, seen, facts.caller, self._fault))
        weight = self._sample(instance, exchange, facts)
        if weight is None and (finished is None or instance.settings.sample_rate is not None):
            return facts, NotSent.SAMPLED_OUT

        def finish(event: dict[str, Any], finished: Finished | None, weight: int | None) -> bytes | NotSent:
            end = partial(_end, finished=finished, weight=weight)
            return end(event) if hooks is None else self._with_hooks(hooks, seen, event, end)

        event = build_event(exchange, facts, policy, weight or 1)
        if finished is not None and lacks_a_body(event):
            finish(build_event(exchange, facts, instance.akto_policy), finished, None)
            finished = None
        return facts, finish(event, finished, weight)

    def _skips(self, hooks: UserHooks, seen: HookExchange) -> bool:
        if "skip" not in hooks:
            return False
        try:
            return bool(hooks.functions["skip"](seen))
        except Exception as error:  # noqa: BLE001 - other people's code
            self._fault("hook skip", error)
            return False

    def _with_hooks(
        self,
        hooks: UserHooks,
        seen: HookExchange,
        event: dict[str, Any],
        finish: Callable[[dict[str, Any]], bytes | NotSent],
    ) -> bytes | NotSent:
        self._extend(hooks, seen, event)
        if "mask" not in hooks:
            return finish(event)
        try:
            return finish(hooks.mask(event))
        except Exception as error:  # noqa: BLE001 - other people's code; never sent unmasked
            self._fault("hook mask", error)
            return NotSent.MASK_FAILED

    def _extend(self, hooks: UserHooks, seen: HookExchange, event: dict[str, Any]) -> None:
        try:
            if "session_token" in hooks and (token := hooks.text("session_token", seen)) is not None:
                event["session_token"] = token
        except Exception as error:  # noqa: BLE001 - other people's code
            self._fault("hook session_token", error)
        try:
            if "metadata" in hooks:
                added = json.loads(orjson.dumps(hooks.metadata(seen)))
                event["metadata"] = {**event.get("metadata", {}), **added}
        except Exception as error:  # noqa: BLE001 - other people's code
            self._fault("hook metadata", error)


def _end(event: dict[str, Any], finished: Finished | None, weight: int | None) -> bytes | NotSent:
    if finished is not None:
        finished(event)
    return encode(event) if weight is not None else NotSent.SAMPLED_OUT


def lacks_a_body(event: Mapping[str, Any]) -> bool:
    """Whether a body was too large for the event; an Akto record may have room for it."""
    return "too_large" in event.get("metadata", {}).get("body_omitted", {}).values()


def identify(hooks: UserHooks, seen: HookExchange, caller: Caller, fault: Fault) -> Caller:
    """The caller as identified by the hooks; if a hook fails, the built-in result."""
    answers = {
        "identify_user": (caller.user_id, caller.user_from),
        "identify_company": (caller.company_id, caller.company_from),
    }
    for name in answers:
        if name in hooks:
            try:
                answers[name] = hooks.text(name, seen), f"the hook {name}"
            except Exception as error:  # noqa: BLE001 - other people's code
                fault(f"hook {name}", error)
    (user, user_from), (company, company_from) = answers.values()
    return Caller(user, company, user_from, company_from)


def hook_exchange(exchange: Exchange, facts: Attributes) -> HookExchange:
    return HookExchange(
        method=exchange.method,
        target=exchange.target.decode("latin-1"),
        client_address=facts.address,
        request_headers=facts.request_headers,
        response_headers=facts.response_headers,
        status=exchange.status,
        user_id=facts.caller.user_id,
        company_id=facts.caller.company_id,
        request_body=exchange.request_body.content(),
        response_body=exchange.response_body.content(),
    )

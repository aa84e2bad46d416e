"""From a captured exchange to the bytes that are sent: facts, the embedder's hooks, sampling, masking, encoding."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.user_hooks import HookExchange, UserHooks
from mitmproxy_moesif.delivery.builder import NotSent
from mitmproxy_moesif.event.attributes import Attributes, read_attributes, request_attributes
from mitmproxy_moesif.event.build import build_event, encode
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.identity import Caller
from mitmproxy_moesif.governance.sampling import keep, weight
from mitmproxy_moesif.governance.snapshot import Snapshot

type Sample = Callable[[Instance, Exchange, Attributes], int | None]
type Fault = Callable[[str, Exception], None]


class EventBuilder:
    """Makes events in the background; `weigh` samples, `fault` is told of an error in a hook of the embedder."""

    def __init__(self, weigh: Sample, fault: Fault) -> None:
        self._weigh = weigh
        self._fault = fault

    def __call__(self, exchange: Exchange, instance: Instance) -> bytes | NotSent:
        policy, hooks = instance.policy, instance.hooks
        facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, policy)
        if hooks is not None:
            seen = hook_exchange(exchange, facts)
            if self._skips(hooks, seen):
                return NotSent.SKIPPED
            facts = replace(facts, caller=self.identify(hooks, seen, facts.caller))
        weight = self._weigh(instance, exchange, facts)
        if weight is None:
            return NotSent.SAMPLED_OUT
        event = build_event(exchange, facts, policy, weight)
        return encode(event) if hooks is None else self._with_hooks(hooks, seen, event)

    def identify(self, hooks: UserHooks, seen: HookExchange, caller: Caller) -> Caller:
        """The caller as the hooks tell; where one fails, the built-in answer."""
        answers = {"identify_user": caller.user_id, "identify_company": caller.company_id}
        for name in answers:
            if name in hooks:
                try:
                    answers[name] = hooks.text(name, seen)
                except Exception as error:  # noqa: BLE001 - other people's code
                    self._fault(f"hook {name}", error)
        return Caller(answers["identify_user"], answers["identify_company"])

    def _skips(self, hooks: UserHooks, seen: HookExchange) -> bool:
        if "skip" not in hooks:
            return False
        try:
            return bool(hooks.functions["skip"](seen))
        except Exception as error:  # noqa: BLE001 - other people's code
            self._fault("hook skip", error)
            return False

    def _with_hooks(self, hooks: UserHooks, seen: HookExchange, event: dict[str, Any]) -> bytes | NotSent:
        self._extend(hooks, seen, event)
        if "mask" not in hooks:
            return _encode(event)
        try:
            return _encode(hooks.mask(event))
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
                added = json.loads(orjson.dumps(dict(hooks.functions["metadata"](seen))))
                event["metadata"] = {**event.get("metadata", {}), **added}
        except Exception as error:  # noqa: BLE001 - other people's code
            self._fault("hook metadata", error)


class Sampler:
    """Samples by the configuration of the account that `snapshot` tells for a destination."""

    def __init__(self, snapshot: Callable[[str], Snapshot]) -> None:
        self._snapshot = snapshot
        self._random = random.Random()  # noqa: S311 - chooses samples, no secret

    def __call__(self, instance: Instance, exchange: Exchange, facts: Attributes) -> int | None:
        """The weight of this exchange's event; None where it is not sampled."""
        rate: float | None = instance.settings.sample_rate
        if rate is None:
            view = request_attributes(exchange, facts, instance.policy.request.body.limit)
            caller, snapshot = facts.caller, self._snapshot(instance.destination)
            rate = snapshot.sample_rate(view, exchange.status, caller.user_id, caller.company_id)
        if rate >= 100:
            return 1
        return weight(rate) if keep(rate, self._random.random()) else None


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


def _encode(event: dict[str, Any]) -> bytes:
    """As ever; a number beyond 64 bits that passed through a hook needs the standard library's encoder."""
    try:
        return encode(event)
    except TypeError:
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()

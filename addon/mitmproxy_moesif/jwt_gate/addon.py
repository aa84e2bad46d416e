"""The gate as an addon: `addons = [MoesifAddon(), JwtGate()]`, in either order: Moesif's calls the gate first.

It responds in `requestheaders`, so that the upstream never sees a refused request; Moesif's addon treats the response
like any other. Headers into which claims are copied are removed from requests, so that only the token determines their
content. The gate fails closed: if a token cannot be checked because of an internal error, or the keys cannot be read
when the script is reloaded, requests are refused. The key file is watched; if a new version is invalid, the old keys
remain in use.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError

from mitmproxy_moesif.capture import engine, heads
from mitmproxy_moesif.capture.responses import ANNOUNCED, GATE_REFUSED, own_answer
from mitmproxy_moesif.config.fields import without_effect
from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.config.watch import WATCH_SECONDS, FileWatch, Periodic, Stamp, stamp_of
from mitmproxy_moesif.jwt_gate import options
from mitmproxy_moesif.jwt_gate.keys import load_keys
from mitmproxy_moesif.jwt_gate.settings import GateSettings, parse_gate_settings, spelling
from mitmproxy_moesif.jwt_gate.tokens import Refusal, Rules, claim_texts
from mitmproxy_moesif.log import RateLimitedLog, describe, log

# RFC 6750: without a token in the request, the challenge has no error.
CHALLENGES = {
    Refusal.REQUIRED: "Bearer",
    Refusal.UNCHECKED: "Bearer",
    **{
        refusal: f'Bearer error="invalid_token", error_description="{refusal}"'
        for refusal in (Refusal.INVALID, Refusal.EXPIRED, Refusal.EARLY)
    },
}


class JwtGate:
    """The gate of one proxy."""

    name = "jwt_gate"

    def __init__(self) -> None:
        self._settings = parse_gate_settings({})
        self._rules: Rules | None = None  # None: off
        self._decided = ""  # the id of the last flow that was decided on
        self._closed = False
        self._running = False
        self._problems: list[str] = []
        self.kept: str | None = None
        """Why the earlier keys are still used, if their file was read again and is invalid."""
        self._faults = RateLimitedLog()
        self._stamp: Stamp = None  # of the key file, when it was read
        self._watch: Periodic | None = None

    def load(self, loader: Loader) -> None:
        options.PARAMETERS.prefer_command_line(ctx.options, sys.argv)
        self._problems = list(options.PARAMETERS.take_unparsable(ctx.options))
        options.PARAMETERS.register(loader)
        engine.install()

    def configure(self, updated: set[str]) -> None:
        """Read the keys again whenever an option of the gate is set, even to the same value.

        If only other options change, as on moesif-proxy's SIGHUP, they are read if their file has changed.
        """
        others = bool(updated) and options.NAMES.isdisjoint(updated)
        if others and (not self._running or stamp_of(self._settings.key_file) == self._stamp):
            return
        problems, self._problems = self._problems, []
        settings, stamp = None, None
        try:
            settings = parse_gate_settings(options.read_given(ctx.options))
            stamp = stamp_of(settings.key_file)  # before reading, so that a later change is detected
            rules = make_rules(settings)
            self._check_effect(settings)
        except SettingsError as error:
            problems.append(str(error))
        if problems:
            self._refuse_options(problems, settings)
            return
        assert settings is not None
        self._settings, self._rules, self._closed, self._stamp = settings, rules, False, stamp
        self.kept = None
        if self._running:
            self._announce()
            self._watch_keys()

    def _check_effect(self, settings: GateSettings) -> None:
        """Raises `SettingsError` if options have no effect. While running only a warning: the gate may be off."""
        if (idle := without_effect(settings)) is None:
            return
        if not self._running:
            raise SettingsError(idle)
        log.warning("JWT gate: %s", idle)

    def _refuse_options(self, problems: list[str], settings: GateSettings | None) -> None:
        """While running, the change is undone; at start, an error in the log ends the proxy."""
        line = f"JWT gate: {'; '.join(problems)}"
        if self._running and not self._closed:
            if settings != self._settings:
                raise OptionsError(line)
            # The same settings were set again, so there is nothing to undo. The earlier keys remain in use.
            log.error("%s; keeping the earlier keys", line)
            self.kept = line
            return
        log.error("%s", line)
        self._closed = True

    def running(self) -> None:
        if problems := list(options.PARAMETERS.unknown_options(ctx.options)):
            self._refuse_options(problems, None)
        self._running = True
        self._announce()
        self._watch_keys()

    def done(self) -> None:
        self._stop_watching()

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def _watch_keys(self) -> None:
        self._stop_watching()
        settings, loop = self._settings, ctx.master.event_loop
        if self._rules is None or settings.key_file is None:
            return

        file = FileWatch(settings.key_file, self._stamp)

        def look() -> None:
            """Runs in the watch's thread."""
            if file.changed() and (rules := reread(settings)) is not None:
                with suppress(RuntimeError):  # the proxy has ended
                    loop.call_soon_threadsafe(self._take_keys, settings, rules, file.seen)

        self._watch = Periodic("moesif-jwt-keys", WATCH_SECONDS, look)
        self._watch.start()

    def _take_keys(self, settings: GateSettings, rules: Rules, stamp: Stamp) -> None:
        if settings is self._settings:  # else an option was set in the meantime, which also read the keys
            self._rules, self._stamp = rules, stamp
            self._announce()

    def _announce(self) -> None:
        if self._closed or self._rules is None:
            return
        keys = self._rules.keys
        if not keys:
            log.warning("JWT gate: no key is given: tokens are read, not verified")
            return
        algorithms = ", ".join(sorted({name for key in keys for name in key.algorithms}))
        log.info("JWT gate: tokens are verified with %s: %s", number_of(len(keys), "key"), algorithms)
        if any(key.short for key in keys):
            log.warning("JWT gate: a key is shorter than its algorithm requires (RFC 7518) and may be guessed")

    # --- the exchange --------------------------------------------------------------------------------------------

    @property
    def _off(self) -> bool:
        return self._rules is None and not self._closed

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Also called by Moesif's addon, if mitmproxy calls that one first."""
        if flow.live and not self._off and flow.id != self._decided:
            self._decide(flow)

    def request(self, flow: http.HTTPFlow) -> None:
        if not flow.live or self._off:
            return
        if flow.request.trailers is not None:
            heads.drop_ambiguous_trailers(flow.request)
            self._withhold(flow.request.trailers, b"authorization")
        if ANNOUNCED not in flow.metadata:
            self._catch_up(flow)

    def _catch_up(self, flow: http.HTTPFlow) -> None:
        """Decide now, if another addon's exception in `requestheaders` kept mitmproxy from calling ours."""
        streamed = bool(flow.request.stream)
        if self._decide(flow) and streamed:
            flow.kill()  # the upstream already has the request; at least the client gets no response

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        response = flow.response
        if not flow.live or response is None or self._off:
            return
        heads.refuse_answer(flow)
        for name, text in flow.metadata.get(ANNOUNCED, {}).items():
            response.headers[name] = text

    def _withhold(self, headers: http.Headers | None, *names: bytes) -> None:
        """Remove these headers and those into which claims are copied, in any spelling."""
        if headers is not None:
            withheld = self._settings.withheld.union(names)
            headers.fields = tuple(field for field in headers.fields if spelling(field[0]) not in withheld)

    def _decide(self, flow: http.HTTPFlow) -> bool:
        """Let the request pass, or refuse it; returns whether it was refused."""
        self._decided, flow.metadata[ANNOUNCED] = flow.id, {}
        headers: dict[str, str] = {}
        refusal: Refusal | None = Refusal.UNCHECKED
        try:
            if heads.refuse_request(flow):
                return True
            self._withhold(flow.request.headers)
            if self._rules is not None and not self._closed:
                verdict = self._rules.decide(flow.request.headers.fields, time.time())
                refusal = verdict if isinstance(verdict, Refusal) else None
                if not isinstance(verdict, Refusal):
                    headers = dict(claim_texts(verdict, self._settings.claim_headers))
        except Exception as error:  # noqa: BLE001 - after any error, nothing may pass unchecked
            refusal = Refusal.UNCHECKED
            self._faults.error("fault", "JWT gate: a fault, the request is refused: %s", describe(error))
        flow.metadata[ANNOUNCED] = headers
        if refusal is not None:
            self._refuse(flow, refusal)
        return refusal is not None

    def _refuse(self, flow: http.HTTPFlow, refusal: Refusal) -> None:
        flow.request.stream = False  # mitmproxy would crash if it streamed a request that has a response
        flow.metadata[GATE_REFUSED] = f"token_{refusal.name.lower()}"
        if flow.response is None or flow.response.status_code < 400:  # else another addon has already refused it
            flow.response = refused_response(refusal, self._settings.jwt_exit_code, flow.request)


def make_rules(settings: GateSettings) -> Rules | None:
    """The rules; None if the gate is off, without reading any file. Raises `SettingsError`."""
    if not settings.jwt_gate:
        return None
    return Rules(load_keys(settings), settings.jwt_required, settings.jwt_leeway)


def reread(settings: GateSettings) -> Rules | None:
    """The rules with the keys now in the file; None if it is invalid, which is logged."""
    try:
        return make_rules(settings)
    except SettingsError as error:
        log.error("JWT gate: %s; keeping the earlier keys", error)
    except Exception as error:  # noqa: BLE001 - the watch must go on, whatever is in the file
        log.error("JWT gate: a fault while reading keys, keeping the earlier ones: %s", describe(error))
    return None


def refused_response(refusal: Refusal, status: int, request: http.Request) -> http.Response:
    headers = [("Cache-Control", "no-store")]
    if status == 401:
        headers.append(("WWW-Authenticate", CHALLENGES[refusal]))
    return own_answer(status, f"JwtError: {refusal}", request, *headers)

"""The addons that `mitmdump -s` loads: the capture, the JWT gate and, on tested versions, the fast lane."""

from __future__ import annotations

from mitmproxy_moesif.addon import MoesifAddon
from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.jwt_gate.addon import JwtGate
from mitmproxy_moesif.lifecycle import Lifecycle
from mitmproxy_moesif.runtime import Listening, listen
from mitmproxy_moesif.speedups import versions


def script_addons() -> list[object]:
    if versions.untested() is not None:
        return [MoesifAddon(), JwtGate()]
    from mitmproxy_moesif.lane.lending import Lending

    def listen_and_count(settings: Settings, operations: Operations) -> Listening:
        operations.engines = lending.engines
        return listen(settings, operations)

    capture = MoesifAddon(Lifecycle(listen=listen_and_count))
    lending = Lending(capture.engine)
    return [capture, JwtGate(), lending]

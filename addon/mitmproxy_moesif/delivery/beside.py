"""Sends Akto a record of each exchange meant for it, in addition to the event, once the exchange is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.lossy import LossyReceivers
from mitmproxy_moesif.delivery.receivers.akto_kafka import akto_receiver
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.event.akto_record import akto_record, encode_record
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import Finished
from mitmproxy_moesif.log import RateLimitedLog, describe

type Made = tuple[bytes, str]
"""A record, and its summary for the log."""


class Beside:
    """For the builder's thread: call `finisher` before and `built` after each exchange, `settled` after a group."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._receivers = LossyReceivers(akto_receiver, ledger)
        self._limited = RateLimitedLog()
        self._made: Made | None = None
        self._unsettled: list[tuple[AktoTarget, Made | str]] = []

    def finisher(self, instance: Instance, exchange: Exchange) -> Finished | None:
        """A callback that makes an exchange's record from its event; None if the exchange is not for Akto."""
        self._made, akto = None, instance.akto
        if akto is None:
            return None

        def finished(event: Mapping[str, Any]) -> None:
            try:
                record = akto_record(event, exchange, akto.account_id)
                shown = f"{record['method']} {record['path']} {record['statusCode']}"
                self._made = encode_record(record), shown if shown.isprintable() else repr(shown)
            except Exception as error:  # noqa: BLE001 - the event must still be sent
                self._ledger.fault("akto record")
                self._limited.error("record", "[akto-api] a record could not be made: %s", describe(error))

        return finished

    def built(self, instance: Instance, cause: str | None, offered: Counter[str]) -> None:
        """The exchange was built, or dropped for `cause`."""
        if (akto := instance.akto) is not None:
            offered[akto.name] += 1
            self._unsettled.append((akto, self._made or cause or "internal_error"))

    def settled(self) -> None:
        unsettled, self._unsettled = self._unsettled, []
        for akto, made in unsettled:
            if isinstance(made, str):
                self._ledger.missed(akto.name, 1, made)
            else:
                self._receivers.put(akto, *made)

    def health(self, configured: Set[AktoTarget]) -> dict[str, Health]:
        """Health by target. From any thread."""
        return self._receivers.health(configured)

    def drain(self, deadline: float) -> None:
        self._receivers.drain(deadline)

    def close(self) -> None:
        self._receivers.close()

"""Whatever goes to the delivery process or comes from it is the same there."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from mitmproxy_moesif.config.settings import SECRETS, Settings, parse_settings
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.api import Condition, SpoolCondition, Unsent
from mitmproxy_moesif.delivery.ledger import Account, Adoption, Reading
from mitmproxy_moesif.delivery.protocol import packed
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.event.exchange import NO_BODY, Exchange, Payload

EXCHANGE = Exchange(
    transaction_id="5e8a4f0e-0000-4000-8000-000000000001",
    scheme="https",
    authority="api.example.com",
    method="POST",
    target=b"/a?b=\xe9",
    http_version="HTTP/1.1",
    peer="203.0.113.9",
    started=1.5,
    request_headers=((b"Host", b"api.example.com"), (b"X", b"\xff")),
    request_body=Payload([b"ab", b"c"]),
    ended=2.5,
    status=200,
    response_headers=((b"Server", b"x"),),
    response_body=Payload((), "too_large", 200_000),
    response_trailers=((b"Grpc-Status", b"0"),),
    blocked_by="rule",
    kong={"service": {"name": "orders"}},
    metadata={"error": "client_disconnected", "websocket": {"bytes": 3, "close_code": None}},
    size=1234,
)


@pytest.mark.parametrize(
    "exchange",
    [EXCHANGE, replace(EXCHANGE, request_body=NO_BODY, response_body=NO_BODY, status=None, ended=None)],
    ids=["full", "bare"],
)
def test_exchanges(exchange: Exchange) -> None:
    plain = protocol.from_exchange(exchange)
    assert packed(plain)
    assert len(plain) == len(fields(Exchange))
    assert protocol.to_exchange(plain) == exchange


GIVEN = {
    "application_id": "app-id",
    "admin_token": "token",
    "kong_admin_token": "token",
    "timeout": "700",
    "request_header_masks": "Cookie, x-api-key",
    "trusted_ips": ["10.0.0.0/8"],
    "user_id_header": "X-User",
    "sample_rate": 12,
    "debug": "true",
    "position": "behind",
}


def test_settings_with_their_secrets_and_which_of_them_were_given() -> None:
    settings = parse_settings(GIVEN)
    plain = protocol.from_settings(settings)
    assert packed((plain,))
    again = parse_settings(plain)
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set
    assert again.connect_seconds == 0.7
    for name in SECRETS:
        assert getattr(again, name).get_secret_value() == getattr(settings, name).get_secret_value()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_default_can_be_given(name: str) -> None:
    settings = Settings.model_construct(_fields_set={name}, **parse_settings({}).__dict__)
    assert packed((protocol.from_settings(settings),))
    assert getattr(parse_settings(protocol.from_settings(settings)), name) == getattr(settings, name)


@pytest.mark.parametrize("spool", [None, SpoolCondition(1, 2, "the disk is full", "file")])
def test_conditions(spool: SpoolCondition | None) -> None:
    account = Account("proxy", 3, 1, 0, {"refused": 2})
    adopted = {"file": Adoption(1.5, 1), "other": Adoption(2.5, 0, account)}
    reading = Reading(9, 1, 2, 3, 3, {"refused": 1}, {"sender": 1}, 4, 5, {"file": 3}, adopted, 8, "proxy")
    health = {"abc": Health(1.5, "status 503", 9.5, unauthorized=True), "def": Health()}
    condition = Condition(reading, health, 7.5, spool, 99, "hangs", {"c": Unsent(2, 1.5, "quarantined")})
    plain = protocol.from_condition(condition)
    assert packed((plain,))
    assert protocol.to_condition(plain) == condition

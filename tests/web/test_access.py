"""Who may use the listener, judged by the head of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

from mitmproxy_moesif.web.access import Address, Gate

TOKEN = "t0ken-ä"


def judge(gate: Gate, host: str, method: str = "GET", path: str = "/status", **headers: str) -> int | None:
    fields = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
    refusal = gate.refusal(method, path, host, fields)
    return None if refusal is None else refusal.status


def gate(listen: str = "127.0.0.1:8095", token: str | None = None) -> Gate:
    return Gate(Address.parse(listen), token)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8095", "127.0.0.1", 8095),
        ("[::1]:0", "::1", 0),
        ("localhost:65535", "localhost", 65535),
        (" 0.0.0.0:1 ", "0.0.0.0", 1),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "8095", ":8095", "127.0.0.1", "::1:80", "[::1]", "a:65536", "a:-1", "a:x", "a b:1"]
)
def test_what_is_no_address_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^admin_listen: must be HOST:PORT[^\n]*$"):
        Address.parse(text)


@pytest.mark.parametrize("listen", ["0.0.0.0:8095", "[::]:8095", "192.0.2.1:8095", "proxy.example.com:8095"])
@pytest.mark.parametrize("token", [None, "", "  "])
def test_beyond_loopback_a_token_is_demanded(listen: str, token: str | None) -> None:
    with pytest.raises(ValueError, match=r"^admin_listen: .* is not a loopback address.*admin_token is needed$"):
        gate(listen, token)
    assert gate(listen, TOKEN).demands_token


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8095", "localhost:1234", "LOCALHOST", "[::1]:8095", "127.9.9.9", "a.localhost"]
)
def test_loopback_names_are_served_on_loopback(host: str) -> None:
    assert judge(gate(), host) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8095", "localhost.evil.example", "192.0.2.1", "", "[::1", "127.0.0.1, evil"]
)
@pytest.mark.parametrize("path", ["/status", "/ping", "/plugins"])
def test_a_name_that_was_made_to_resolve_to_loopback_is_not(host: str, path: str) -> None:
    assert judge(gate(), host, path=path) == 403


@pytest.mark.parametrize("listen", ["127.0.0.1:8095", "0.0.0.0:8095"])
def test_the_token_is_asked_for_everywhere_but_by_probes(listen: str) -> None:
    guarded = gate(listen, TOKEN)
    for path in ("/", "/status", "/metrics", "/plugins", "/plugins/x", "/nothing", "/health/x", "//ping"):
        assert judge(guarded, "127.0.0.1", path=path) == 401
    for path in ("/health", "/ping", "/ping/"):
        assert judge(guarded, "127.0.0.1", path=path) is None


def test_the_token_goes_in_kongs_header_or_as_a_bearer() -> None:
    shown = TOKEN.encode().decode("latin-1")  # as a header arrives
    assert judge(gate(token=TOKEN), "localhost", Kong_Admin_Token=shown) is None
    assert judge(gate(token=TOKEN), "localhost", Authorization=f"Bearer {shown}") is None
    assert judge(gate(token=TOKEN), "localhost", authorization=f"bearer  {shown}") is None
    for headers in ({"Kong_Admin_Token": shown + "x"}, {"Authorization": f"Basic {shown}"}, {"Authorization": shown}):
        assert judge(gate(token=TOKEN), "localhost", **headers) == 401


@given(
    st.text(st.characters(max_codepoint=255)), st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)
)
def test_nothing_but_the_token_opens(guess: str, token: str) -> None:
    expected = None if guess == token else 401
    assert judge(gate(token=token), "localhost", Kong_Admin_Token=guess) == expected


def test_beyond_loopback_names_are_for_those_with_the_token() -> None:
    guarded = gate("0.0.0.0:8095", TOKEN)
    shown = TOKEN.encode().decode("latin-1")
    assert judge(guarded, "10.1.2.3:8095", path="/health") is None, "a probe of Kubernetes"
    assert judge(guarded, "evil.example", path="/health") == 403
    assert judge(guarded, "proxy.internal:8095", Kong_Admin_Token=shown) is None
    named = gate("proxy.internal:8095", TOKEN)
    assert judge(named, "Proxy.Internal:8095", path="/health") is None


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
def test_another_sites_page_changes_nothing(method: str) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:3000", "http://[", ""):
        assert judge(gate(), "localhost:8095", method, Origin=origin) == 403
    for origin in ("http://localhost:8095", "http://LOCALHOST:8095"):
        assert judge(gate(), "localhost:8095", method, Origin=origin) is None
    assert judge(gate(), "localhost:8095", method) is None
    assert judge(gate(), "localhost:8095", "GET", Origin="https://evil.example") is None


@pytest.mark.parametrize("path", ["/status", "/exchanges/stream", "/health"])
def test_another_sites_page_uses_nothing_but_links(path: str) -> None:
    """As an image, a script or a frame it could be asked for, without an Origin and often."""
    for destination in ("image", "script", "empty", "iframe"):
        asked = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": destination}
        assert judge(gate(), "localhost:8095", "GET", path, **asked) == 403
        for site in ("same-origin", "same-site", "none"):
            assert judge(gate(), "localhost:8095", "GET", path, **asked | {"Sec_Fetch_Site": site}) is None
        guarded = gate(token=TOKEN)
        shown = TOKEN.encode().decode("latin-1")
        assert judge(guarded, "localhost:8095", "GET", path, Kong_Admin_Token=shown, **asked) is None
    assert judge(gate(), "localhost:8095", "GET", path, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document") is None

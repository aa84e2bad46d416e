"""An exchange as curl, HAR and NDJSON: read back by those that read them."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.io import har as mitmproxy_har

from mitmproxy_moesif.page import forms
from tests.recent.kept import SECRET, kept
from tests.support.events import an_exchange
from tests.support.upstream import ScriptedUpstream

JSON = ("Content-Type", "application/json")


def an_event(upstream: ScriptedUpstream, body: bytes, *headers: tuple[str, str]) -> dict[str, Any]:
    authority = upstream.url.removeprefix("http://")
    fields: dict[str, Any] = {"authority": authority, "method": "POST", "target": b"/x?a=1&b=%20'"}
    event = kept(an_exchange([("Host", authority), *headers], [], request_body=body, **fields))["event"]
    assert event is not None
    return event


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "it\'s"}',
        b"plain $HOME `x`",
        b"\x00\xff binary",
        b"a\x00b",
        "\x03it's\n\tC:\\x41\x1b[201~\x9b\\é".encode(),
    ],
)
def test_curl_sends_the_same_request_again(upstream: ScriptedUpstream, body: bytes) -> None:
    command = forms.curl(an_event(upstream, body, JSON, ("X-Odd", "it's $(id)")))
    assert shutil.which("curl") is not None
    subprocess.run(["bash", "-c", command], check=True, timeout=20, capture_output=True)
    (request,) = upstream.requests()
    assert (request.method, request.target) == ("POST", "/x?a=1&b=%20'")
    assert request.get("x-odd") == "it's $(id)"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", command)
    assert request.body == body or json.loads(request.body) == json.loads(body)


def test_mitmproxy_reads_the_har(tmp_path: Path) -> None:
    details = [
        kept(an_exchange([("Host", "h"), JSON], [JSON], request_body=b'{"a": 1}', response_body=b'{"b": 2}')),
        kept(an_exchange([("Host", "h")], [], response_body=b"\x00\xff", status=404)),
    ]
    document = forms.har(details)
    file = tmp_path / "exported.har"
    file.write_text(json.dumps(document))
    flows = [mitmproxy_har.request_to_flow(entry) for entry in json.loads(file.read_text())["log"]["entries"]]
    assert [flow.response.status_code for flow in flows if flow.response] == [404, 200]
    assert [flow.response.content for flow in flows if flow.response] == [b"\x00\xff", b'{"b": 2}']
    assert flows[1].request.content == b'{"a": 1}'


def test_exports_are_masked_and_oldest_first() -> None:
    exchange = an_exchange([("Cookie", SECRET), JSON], [], request_body=json.dumps({"pin": SECRET}).encode())
    masked = kept(exchange, request_body_masks=["pin"])
    other = kept(an_exchange(target=b"/newer"))
    lines = forms.ndjson([other, masked]).splitlines()
    assert [json.loads(line)["request"]["uri"].rpartition("/")[2] for line in lines] == ["7", "newer"]
    assert SECRET not in "".join(lines) + json.dumps(forms.har([masked]))


def test_what_has_no_event_is_left_out() -> None:
    detail = kept(an_exchange())
    detail["event"] = None
    assert forms.ndjson([detail]) == ""
    assert forms.har([detail])["log"]["entries"] == []


def test_a_base64_body_is_decoded() -> None:
    encoded = base64.b64encode(b"\x00").decode()
    assert forms.body_bytes({"body": encoded, "transfer_encoding": "base64"}) == b"\x00"


def test_no_header_is_an_option_of_curl_or_a_file_to_it() -> None:
    event = kept(an_exchange([("Host", "h"), ("@/etc/passwd", "x"), ("X-Empty", "")], []))["event"]
    assert event is not None
    command = forms.curl(event)
    assert "passwd" not in command
    assert "'x-empty;'" in command


@pytest.mark.parametrize("body", ["b3V0cHV0ID0gb3duZWQKI/8=", "aGVsbG8="])
@pytest.mark.parametrize("uri", ["-K-", "-oowned", "--next", "-"])
def test_no_uri_is_an_option_of_curl(uri: str, body: str, tmp_path: Path) -> None:
    """An SDK's event may have any; with its body as a configuration curl would write any file."""
    request = {"verb": "POST", "uri": uri, "headers": {}, "body": body, "transfer_encoding": "base64"}
    ran = subprocess.run(
        ["bash", "-c", forms.curl({"request": request})], capture_output=True, text=True, timeout=20, cwd=tmp_path
    )
    assert ran.returncode in (3, 6)  # no URL, no host of that name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("http://api.example/orders?a=1&b=%20", "/orders?a=1&b=%20"),
        (f"http://api.example/{'x' * 2000}", f"/{'x' * 2000}"),
        ("http://api.example", "/"),
        ("http://api.example?a=1", "/?a=1"),
        ("http://api.example//evil.example/x", "//evil.example/x"),
        ("@evil.example/x", "/@evil.example/x"),
        (".evil.example/x", "/.evil.example/x"),
        ("1/x", "/1/x"),
    ],
)
def test_a_request_is_replayed_at_the_proxy_and_nowhere_else(uri: str, target: str) -> None:
    event = {"request": {"verb": "GET", "uri": uri}}
    for proxy in ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"):
        assert forms.replayed_at(proxy, event) == f"http://127.0.0.1:8080{target}"

"""When a request's body is streamed."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_moesif.capture.tee import RequestTee


def test_a_request_that_has_its_answer_is_not_streamed() -> None:
    flow = tflow.tflow()
    tee = RequestTee(100, flow)
    assert tee
    flow.response = http.Response.make(403)
    assert not tee


def test_one_whose_body_has_begun_is() -> None:
    flow = tflow.tflow()
    tee = RequestTee(100, flow)
    assert tee(b"x") == b"x"
    flow.response = http.Response.make(200)
    assert tee

"""The flows of a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
from mitmproxy.flow import Flow
from mitmproxy.io import FlowWriter, tnetstring
from mitmproxy.test import tflow

from mitmproxy_moesif.backfill.saved import FileError, Saved, read
from tests.backfill.entries import an_entry

HAR = Path("saved.har")


def har(*entries: object) -> bytes:
    return json.dumps({"log": {"entries": entries}}).encode()


def saved(content: bytes) -> list[Saved]:
    return list(read(io.BytesIO(content), HAR))


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_a_har_is_known_by_its_beginning(before: bytes) -> None:
    found = saved(before + har(an_entry("/1"), {}, an_entry("/2")))
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.flow.request.path if one.flow else one.problem for one in found] == [
        "/1",
        "saved.har: entry 2: request is missing",
        "/2",
    ]


def test_what_is_nested_too_deep_costs_no_other_entry() -> None:
    """Nor gigabytes of memory."""
    deep = f'{{"_x": {"[" * 100_000}{"]" * 100_000}}}'.encode()
    log = b'{"log": {"_y": [[{"entries": [5]}]], "entries": [%s, %s, [], 5]}}' % (deep, json.dumps(an_entry()).encode())
    assert [one.problem and one.problem.removeprefix("saved.har: ") for one in saved(log)] == [
        "entry 1: it is nested too deep",
        None,
        "entry 3: request is missing",
        "entry 4: request is missing",
    ]


def test_an_entry_that_is_no_http_is_none() -> None:
    entry = an_entry()
    entry["request"]["url"] = "data:,x"
    assert saved(har(entry)) == [Saved(1, None)]


def test_a_flow_file_holds_other_flows_too() -> None:
    content = flows(tflow.tflow(resp=True), tflow.tdnsflow(), tflow.twebsocketflow())
    assert [one.flow is not None for one in saved(content)] == [True, False, True]


def flows(*all_flows: Flow) -> bytes:
    content = io.BytesIO()
    writer = FlowWriter(content)
    for flow in all_flows:
        writer.add(flow)
    return content.getvalue()


def with_state(**more: object) -> bytes:
    """A flow that is damaged: what it is of is of another type."""
    state = cast("dict[str, Any]", tnetstring.loads(flows(tflow.tflow())))
    return tnetstring.dumps({**state, **more})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (har(an_entry())[:-40], "ends before the first entry, or is not JSON"),
        (har(an_entry())[:-2], "ends after entry 1, or is not JSON"),
        (b'{"log": {"entries": [,]}}', "ends before the first entry, or is not JSON"),
        (b'{"log": {}}', "has no entries"),
        (b"text", "neither a flow file nor a HAR"),
        (b"5:abc", "neither a flow file nor a HAR"),
        (b"999999999999:abc", "neither a flow file nor a HAR"),
        (
            flows(tflow.tflow()) + with_state(client_conn="x"),
            "flow 2 cannot be read: the file is truncated there, or damaged",
        ),
        (flows(tflow.tflow()) + b"5:abc", "flow 2 cannot be read: the file is truncated there, or damaged"),
    ],
)
def test_a_file_that_is_cut_or_none_is_one_line(content: bytes, problem: str) -> None:
    with pytest.raises(FileError, match=problem) as raised:
        saved(content)
    assert str(raised.value).startswith("saved.har: ")


def test_an_empty_file_of_flows_holds_none() -> None:
    assert saved(b"") == []

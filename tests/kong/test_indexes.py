"""The indexes of the router: each finds what looking at every entry would find."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.indexes import SPARSE, ByValue, HeaderIndex, HostIndex, PathIndex, PrefixTree, split_port

LABELS = st.sampled_from(["a", "api", "example", "com", "org", "x-y"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.sampled_from(["", ":80", ":8443", ":443"])
REQUEST_HOSTS = st.one_of(
    st.builds(str.__add__, NAMES, PORTS), st.sampled_from(["", "[::1]", "a:", "[::1]:80", "api.", ".com"])
)
ROUTE_HOSTS = st.builds(
    str.__add__, st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}"), NAMES.map(lambda name: f"{name}.*")), PORTS
)


@pytest.mark.parametrize(
    ("host", "bare", "full"),
    [
        ("a.com", "a.com", "a.com:80"),
        ("a.com:8443", "a.com", "a.com:8443"),
        ("a.com:", "a.com", "a.com:80"),
        ("a.com:x", "a.com:x", "[a.com:x]:80"),
        ("", "", ":80"),
        ("[::1]", "::1", "[::1]:80"),
        ("[::1]:8443", "::1", "[::1]:8443"),
        ("[::1]:", "::1", "[::1]:80"),
        ("[::1]x", "[::1]x", "[::1]x:80"),
        ("::1", "::1", "[::1]:80"),
    ],
)
def test_a_host_is_split_from_its_port(host: str, bare: str, full: str) -> None:
    assert split_port(host, 80) == (bare, full)


def test_a_set_grows_from_a_list_to_bits_without_losing_an_entry() -> None:
    entries = ByValue()
    for entry in range(0, 3 * SPARSE, 3):
        entries.add("value", entry)
        assert entries["value"].bit_count() == entry // 3 + 1
    assert entries["value"] == sum(1 << entry for entry in range(0, 3 * SPARSE, 3))
    assert entries["other"] == 0


def _wildcard_matches(wildcard: str, full: str) -> bool:
    ending = "$" if re.search(r":\d+$", wildcard) else r"(?::\d+)?$"
    return re.match(wildcard.replace(".", r"\.").replace("*", ".+") + ending, full) is not None


@given(st.lists(ROUTE_HOSTS, max_size=8), REQUEST_HOSTS)
def test_hosts_are_found_as_by_trying_each(hosts: list[str], requested: str) -> None:
    index = HostIndex()
    for entry, host in enumerate(hosts):
        index.add(host, entry)
    bare, full = split_port(requested, 80)
    met = [entry for entry, host in enumerate(hosts) if _host_matches(host, requested, bare, full)]
    hit = index.hit(requested, 80)
    assert hit.met == sum(1 << entry for entry in met)
    wildcards = [hosts[entry] for entry in met if "*" in hosts[entry]]
    is_plain = bare in hosts or full in hosts
    assert hit.is_hit == (is_plain or bool(wildcards))
    assert hit.key == (requested if is_plain or not wildcards else wildcards[0])


def _host_matches(host: str, requested: str, bare: str, full: str) -> bool:
    return _wildcard_matches(host, full) if "*" in host else host in (requested, bare)


def test_a_request_without_a_host_hits_none() -> None:
    index = HostIndex()
    index.add("*.com", 0)
    index.add("a.com", 1)
    assert index.hit(None, 80).met == 0
    assert not index.hit(None, 80).is_hit


@pytest.mark.parametrize("requested", ["a" * 5000 + ".com", "a." * 5000 + "com", ".".join("a" * 300)])
def test_a_long_host_is_cut_only_where_a_wildcard_may_lie(requested: str) -> None:
    index = HostIndex()
    index.add("*.com", 0)
    assert index.hit(requested, 80).is_hit == requested.endswith(".com")


@given(st.lists(st.text(alphabet="/ab", min_size=1, max_size=5).map(str.encode)), st.text(alphabet="/ab", max_size=8))
def test_a_tree_gives_every_prefix_the_longest_first(prefixes: list[bytes], path: str) -> None:
    found = list(PrefixTree(prefixes).of(path.encode()))
    assert found == sorted({p for p in prefixes if path.encode().startswith(p)}, key=len, reverse=True)


def test_a_path_hits_the_first_expression_before_the_longest_prefix() -> None:
    index = PathIndex(prefixes=[(b"/a", 0), (b"/a/b", 1)], expressions=[(rb"/a/\w+", 2), (rb"/a/b", 3)])
    hit = index.hit(b"/a/b")
    assert hit.key == rb"/a/\w+"
    assert hit.met == 0b1111
    assert index.hit(b"/ab").key == b"/a"
    assert not index.hit(b"/").is_hit


def test_a_header_is_met_by_any_of_its_values_in_any_case_and_all_headers_must_be() -> None:
    index = HeaderIndex()
    index.add("x-tenant", ("Green", "blue"), 0)
    index.add("x-tenant", ("green",), 1)
    index.add("x-version", ("2",), 1)
    for tenant in ("GREEN", "Blue"):
        assert index.unmet(index.relevant({"x-tenant": [tenant], "other": ["x"]})) == 0b10
    assert index.unmet(index.relevant({"x-tenant": ["red", "green"], "x-version": ["2"]})) == 0
    assert index.unmet(index.relevant({"x-version": ["2"], "x-tenant": []})) == 0b11


def test_letters_beyond_ascii_keep_their_case_in_header_values() -> None:
    index = HeaderIndex()
    index.add("x-tenant", ("GR\u00dcN",), 0)
    index.add("x-tenant", ("gr\u00fcn",), 1)
    index.add("x-tenant", ("~*r\u00dc",), 2)
    assert index.unmet(index.relevant({"x-tenant": ["Gr\u00dcn"]})) == 0b010
    assert index.unmet(index.relevant({"x-tenant": ["Gr\u00fcn"]})) == 0b101


def test_an_underscore_in_a_header_name_stands_for_itself_or_else_for_a_dash() -> None:
    index = HeaderIndex()
    index.add("x_tenant", ("green",), 0)
    index.add("x-tenant", ("red",), 1)
    assert index.unmet(index.relevant({"x-tenant": ["green"]})) == 0b10
    assert index.unmet(index.relevant({"x_tenant": ["green"]})) == 0b10
    assert index.unmet(index.relevant({"x_tenant": ["green"], "x-tenant": ["red"]})) == 0
    assert index.unmet(index.relevant({"x_tenant": ["blue"], "x-tenant": ["green"]})) == 0b11


def test_a_lone_header_value_with_tilde_and_star_is_an_expression_searched_in_lower_case() -> None:
    index = HeaderIndex()
    index.add("x-tenant", ("~*^gr[a-z]+$",), 0)
    index.add("x-tenant", ("~*een",), 1)
    index.add("x-tenant", ("~*gr.*", "other"), 2)
    assert index.unmet(index.relevant({"x-tenant": ["GREEN"]})) == 0b100
    assert index.unmet(index.relevant({"x-tenant": ["~*GR.*"]})) == 0b011
    assert index.unmet(index.relevant({"x-tenant": ["x", "seen"]})) == 0b101

"""Rule files of one's own: JSON and YAML, refused with file and line where they are broken."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.local_rules import parse_local_rules
from mitmproxy_moesif.governance.model import GovernanceError
from mitmproxy_moesif.governance.snapshot import Snapshot
from tests.governance.builders import JSON, View, blocking, conditions, refusal

YAML = dedent("""\
    # quota
    rules:
      - _id: over-quota
        type: user
        block: true
        regex_config:
          - conditions:
              - {path: request.verb, value: ^GET$}
        variables: [{name: 0}, {name: "until"}]
        response:
          status: 429
          headers: {Retry-After: 3600}
          body: {error: "over {{0}} calls, until {{until}}"}
    user_rules:
      alice: [{rules: over-quota, values: {0: 1000, until: 2030-01-31}}]
      12: [{rules: over-quota}]
    """)


@pytest.mark.parametrize("user", ["alice", "12"])
def test_a_yaml_file_gives_rules_and_who_they_are_for(user: str) -> None:
    state = Snapshot(local_rules=parse_local_rules(YAML, "rules.yaml"))
    assert state.warnings == ()
    blocked = state.decide(View(), user, None).block
    assert blocked is not None
    assert (blocked.rule_id, blocked.status) == ("over-quota", 429)
    assert ("Retry-After", "3600") in blocked.headers
    values = {"alice": ("1000", "2030-01-31"), "12": ("UNKNOWN", "UNKNOWN")}[user]
    assert json.loads(blocked.body) == {"error": "over {} calls, until {}".format(*values)}
    assert state.decide(View(), "carol", None).block is None


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("name", ["rules.json", "rules.JSON", "rules.yaml", "rules"])
def test_a_list_of_rules_is_enough_and_json_is_read_under_either_name(name: str, indent: str | int | None) -> None:
    text = json.dumps([blocking("r1", body={"a": 'ü \U0001f600 / \\ "'}), blocking("r2")], indent=indent)
    read = parse_local_rules(text, name)
    assert read.source == name
    assert [rule.id for rule in read.rules] == ["r1", "r2"]
    assert read == parse_local_rules(b"\xef\xbb\xbf" + text.encode(), name)
    assert read == parse_local_rules("\ufeff" + text, name)
    assert read.rules[0].response["body"] == {"a": 'ü \U0001f600 / \\ "'}


@pytest.mark.parametrize("text", ["[]", "rules: []", "rules:", "{}", "user_rules: {}"])
def test_no_rules_can_be_said(text: str) -> None:
    assert parse_local_rules(text, "rules.yaml").rules == ()


def test_anchors_and_merge_keys_work() -> None:
    text = dedent("""\
        - &base {_id: a, type: regex, response: {headers: {X-Note: hi}}}
        - <<: *base
          _id: b
        """)
    assert [rule.id for rule in parse_local_rules(text, "r.yml").rules] == ["a", "b"]


@pytest.mark.parametrize("date", ["2024-01-31", "2024-13-45", "2024-01-31 10:00:00Z"])
def test_a_date_is_the_text_that_is_written(date: str) -> None:
    (rule,) = parse_local_rules(f"- {{_id: a, type: regex, name: {date}}}", "r.yaml").rules
    assert rule.name == date


@pytest.mark.filterwarnings("error")
def test_an_anchor_may_be_defined_again() -> None:
    text = "[{_id: &a x, type: &a regex, name: *a}]"
    assert parse_local_rules(text, "r.yaml").rules[0].name == "regex"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.json", '[\n {"_id": "a",\n }\n]', "r.json, line 2: is not JSON"),
        ("r.yaml", "a: 1\nb: [1, 2\nc: 3", "r.yaml, line 3: is not valid YAML"),
        ("r.yaml", "rules: []\nrules: []", "r.yaml, line 2: 'rules' is given twice in one mapping"),
        ("r.yaml", '"a\\nb": 1\n"a\\nb": 2', "r.yaml, line 2: 'a\\nb' is given twice in one mapping"),
        (
            "r.yaml",
            "- _id: a\n  type: !!python/object:os.system {}",
            "r.yaml, line 2: the tag tag:yaml.org,2002:python",
        ),
        ("r.yaml", "- a\n- \x01", "r.yaml, line 2: is not valid YAML"),
        ("r.yaml", b"- a\n- \xff", "r.yaml, line 2: is not UTF-8"),
        ("r.json", b"[\n\xff", "r.json, line 2: is not UTF-8"),
        ("r.yaml", "[" * 2000, "r.yaml: is nested too deeply"),
        ("r.yaml", "- &a [*a]", "r.yaml, line 1: is nested too deeply"),
        (
            "r.yaml",
            "- _id: a\n  type: !!binary aGk=",
            "r.yaml, line 2: the tag tag:yaml.org,2002:binary is not allowed",
        ),
        ("r.yaml", "rules: []\nuser_rules: {? [a, b] : []}", "r.yaml, line 2: a key must be a plain value"),
        ("r.yaml", "", "r.yaml, line 1: must be a list of rules, or an object"),
        ("r.yaml", "hello", "r.yaml, line 1: must be a list of rules, or an object"),
        (
            "r.yaml",
            "rules: []\nuser_rule: {}",
            "r.yaml, line 2: user_rule: is not one of rules, user_rules, company_rules",
        ),
        ("r.yaml", "\nrules:\n  a: 1", "r.yaml, line 2: rules: must be a list of rules"),
        ("r.yaml", "- _id: a\n  type: regex\n- type: user", "r.yaml, line 3: [1]._id: is missing"),
        (
            "r.yaml",
            "rules:\n- _id: a\n  type: regex\n  block: 1",
            "r.yaml, line 4: rules[0].block: must be true or false",
        ),
        (
            "r.json",
            '[\n\t{"_id": "a", "type": "regex",\n\t "regex_config": [\n\t  {"conditions": 7}\n]}]',
            "r.json, line 4: [0].regex_config[0].conditions: must be a list",
        ),
        (
            "r.yaml",
            "user_rules:\n  alice:\n  - rules: a\n  - values: {}",
            "r.yaml, line 4: user_rules.alice[1].rules: is missing",
        ),
        (
            "r.yaml",
            "- _id: a\n  type: regex\n  blok: true",
            "r.yaml, line 3: [0].blok: there is no such key; did you mean block?",
        ),
        (
            "r.yaml",
            "rules:\n- _id: a\n  type: regex\n  response:\n    staus: 429",
            "r.yaml, line 5: rules[0].response.staus: there is no such key; did you mean status?",
        ),
        (
            "r.yaml",
            "- _id: a\n  type: regex\n- _id: b\n  type: regex\n- type: regex\n  _id: a",
            "r.yaml, line 6: [2]._id: 'a' is the id of another rule of this file",
        ),
        (
            "r.yaml",
            "rules:\n- {_id: quota, type: user}\ncompany_rules:\n  acme:\n  - rules: quot",
            "r.yaml, line 5: company_rules.acme[0].rules: 'quot' is not a rule of this file; did you mean quota?",
        ),
        (
            "r.yaml",
            "rules:\n- {_id: quota, type: user}\nuser_rules:\n  ada:\n  - rules: quota\n    value: {}",
            "r.yaml, line 6: user_rules.ada[0].value: there is no such key; did you mean values?",
        ),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_line(name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(GovernanceError) as refused:
        parse_local_rules(text, name)
    assert str(refused.value).startswith(message)
    assert str(refused.value).isprintable()


def test_keys_of_moesifs_own_mean_nothing_here() -> None:
    text = json.dumps(
        [{**blocking("r1"), "org_id": "1", "app_id": "1", "created_at": "", "status": "active", "weight": 1}]
    )
    assert [rule.id for rule in parse_local_rules(text, "r.json").rules] == ["r1"]


def test_aliases_cannot_make_a_small_file_huge() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(GovernanceError, match="aliases make more than 2000000 values"):
        parse_local_rules("\n".join(lines), "r.yaml")


def test_a_file_over_the_bound_is_refused() -> None:
    with pytest.raises(GovernanceError, match=r"r\.json: is larger than 10000000 bytes"):
        parse_local_rules(" " * 10_000_001, "r.json")


def test_a_rule_of_a_file_that_cannot_be_applied_is_named_with_the_file() -> None:
    text = json.dumps([blocking("bad", regex_config=[conditions(("route", "(?<=a)b"))]), blocking("good")])
    state = Snapshot(local_rules=parse_local_rules(text, "rules.json"))
    (warning,) = state.warnings
    assert warning.startswith("rule bad (Rule bad) from rules.json is disabled: the pattern '(?<=a)b'")
    assert state.decide(View(), None, None).block is not None


@given(st.text(), st.sampled_from(["r.json", "r.yaml"]))
def test_any_text_is_rules_or_refused_in_one_line(text: str, name: str) -> None:
    message = refusal(lambda: parse_local_rules(text, name))
    assert message is None or (message.startswith(name) and message.isprintable())


@given(st.binary())
def test_any_bytes_are_rules_or_refused(raw: bytes) -> None:
    message = refusal(lambda: parse_local_rules(raw, "r.yaml"))
    assert message is None or message.startswith("r.yaml")


@given(st.dictionaries(st.sampled_from(["rules", "user_rules", "company_rules"]), JSON) | JSON)
def test_any_json_is_rules_or_refused_in_one_line(document: object) -> None:
    message = refusal(lambda: parse_local_rules(json.dumps(document), "r.json"))
    assert message is None or message.isprintable()


_BLOCK = ["- ", "? ", ": ", "\n", "  ", "|\n ", ">", "---\n", "...", "%YAML 1.1\n", "<<: ", "&a ", "*a "]
_FLOW = ["{", "}", "[", "]", ", ", "'", '"', "\\u", "=", "@", "`"]
_TAGS = [f"!!{name} " for name in ("set", "omap", "int", "float", "bool", "timestamp", "binary", "null", "pairs", "x")]
_SCALARS = ["a", "1", "~", "0x", "1_", "2024-01-01", ".nan", ".inf"]


@given(st.lists(st.sampled_from(_BLOCK + _FLOW + _TAGS + _SCALARS), max_size=12).map("".join))
def test_anything_like_yaml_is_rules_or_refused_in_one_line(text: str) -> None:
    message = refusal(lambda: parse_local_rules(text, "r.yaml"))
    assert message is None or message.isprintable()

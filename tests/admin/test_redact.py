"""Secrets in what goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.redact import SHOWN, is_secret, redacted, secret_values, shown_names, without_shown
from mitmproxy_moesif.config.settings import SECRETS, Settings

NAMES = st.sampled_from(["a", "config", "application_id", "akto_api_key", "debug"])
SECRET = "5ecre7-ä"


def test_every_secret_parameter_is_one_and_no_other() -> None:
    assert {name for name in Settings.model_fields if is_secret(name)} >= SECRETS
    for name in ("authorization_header_name", "user_id_header", "disable_transaction_id", "request_header_masks"):
        assert not is_secret(name)
    for name in ("akto_api_key", "kong_admin_token", "client_secret", "Password", "apikey"):
        assert is_secret(name)


TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(SECRET),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=10,
)


@given(TREES)
def test_below_a_secret_name_nothing_is_shown(tree: Any) -> None:
    assert SECRET not in json.dumps(redacted({"application_id": [SECRET, tree]}), ensure_ascii=False)


@given(TREES, st.text(max_size=5))
def test_a_known_secret_is_in_no_text(tree: Any, text: str) -> None:
    shown = redacted({"text": f"{text}{SECRET}{text}", "tree": tree}, {SECRET})
    assert SECRET not in json.dumps(shown, ensure_ascii=False)


@pytest.mark.parametrize("empty", [None, "", False])
def test_it_is_seen_whether_there_is_a_secret(empty: object) -> None:
    assert redacted({"application_id": empty, "b": {"api_key": "x"}}) == {
        "application_id": empty,
        "b": {"api_key": SHOWN},
    }


def test_what_is_no_secret_stays_as_plain_containers() -> None:
    assert redacted({"a": (1, 2.5, "x"), "b": {3: True}}) == {"a": [1, 2.5, "x"], "b": {"3": True}}


def test_a_short_secret_is_not_cut_out_of_words() -> None:
    text = "UNIQUE violation: 'q' was given twice, \"q\" is not unique (q)"
    assert redacted(text, {"q"}) == "UNIQUE violation: '***' was given twice, \"***\" is not unique (***)"
    assert redacted("a unique key", {"uni", "ey"}) == "a unique key"


def test_which_secrets_were_sent_back_as_shown_is_known() -> None:
    assert shown_names({"config": {"application_id": SHOWN, "debug": True}, "enabled": True}) == {"application_id"}
    assert shown_names({"config": SHOWN}) == shown_names([]) == set()


def test_secrets_of_a_request_are_found_wherever_they_are() -> None:
    given = {"config": {"application_id": ["a", {"x": 12}], "debug": "true"}, "token": "", "api_key": SHOWN}
    assert secret_values(given) == {"a", "12"}


def test_a_secret_sent_back_as_it_was_shown_is_no_change() -> None:
    given = {"config": {"application_id": SHOWN, "debug": SHOWN, "x": {"api_key": SHOWN}}, "enabled": True}
    assert without_shown(given) == {"config": {"debug": SHOWN, "x": {}}, "enabled": True}

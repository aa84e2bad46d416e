"""Values from the environment in a Kong file: decK's placeholders and Kong's references."""

from __future__ import annotations

import pytest

from mitmproxy_moesif.config.document import DocumentError
from mitmproxy_moesif.kong.placeholders import fill_in, resolve_reference

ENVIRON = {"DECK_ID": "s3cret", "DECK_PORT": "80", "MOESIF_ID": "s3cret", "OF_JSON": '{"id": "inner", "list": []}'}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ('a: ${{ env "DECK_ID" }}', "a: s3cret"),
        ('a: "${{ env "DECK_ID" }}"', 'a: "s3cret"'),
        ('a: ${{env "DECK_ID"}}-${{ env `DECK_ID` }}', "a: s3cret-s3cret"),
        ('port: ${{ env "DECK_PORT" | toInt }}', "port: 80"),
        ('  # ${{ env "NOBODYS" }} ${{ else }}', '  # ${{ env "NOBODYS" }} ${{ else }}'),
        ("a: ${b} {{c}}", "a: ${b} {{c}}"),
        ('\udcff: ${{ env "DECK_ID" }}', "\udcff: s3cret"),
    ],
)
def test_what_deck_fills_in(text: str, filled: str) -> None:
    content = text.encode("utf-8", "surrogateescape")
    assert fill_in(content, ENVIRON) == filled.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('${{ env "HOME" }}', "the environment variable HOME must start with DECK_, as in decK"),
        ('${{ env "DECK_NONE" }}', "the environment variable DECK_NONE is not set"),
        ('${{ env "DECK_ID" | indent 4 }}', "the only supported placeholder is"),
        ("${{ nothing }}", "the only supported placeholder is"),
    ],
)
def test_what_cannot_be_filled_in_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        fill_in(f"a: 1\nb: {text}".encode(), ENVIRON)
    assert str(caught.value).startswith(message)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{vault://env/moesif-id}", "s3cret"),
        ("{vault://env/moesif_id}", "s3cret"),
        ("{vault://env/of-json/id}", "inner"),
        ("plain", "plain"),
        ("x{vault://env/moesif-id}", "x{vault://env/moesif-id}"),
    ],
)
def test_what_a_reference_stands_for(text: str, value: str) -> None:
    assert resolve_reference(text, ENVIRON) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{vault://env/none}", "the environment variable NONE is not set"),
        ("{vault://env/of-json/none}", "the environment variable OF_JSON is not JSON with the key 'none'"),
        ("{vault://env/of-json/list}", "the environment variable OF_JSON is not JSON with the key 'list'"),
        ("{vault://env/moesif-id/id}", "the environment variable MOESIF_ID is not JSON with the key 'id'"),
        ("{vault://aws/moesif/id}", "the only supported vault is {vault://env/name}; "),
        ("{vault://env/a?prefix=B_}", "the only supported vault is {vault://env/name}; "),
        ("{vault://}", "the only supported vault is {vault://env/name}; "),
    ],
)
def test_what_a_reference_cannot_stand_for_is_refused_without_a_value(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"vault|variable") as caught:
        resolve_reference(text, ENVIRON)
    assert str(caught.value).startswith(message)
    assert "s3cret" not in str(caught.value)

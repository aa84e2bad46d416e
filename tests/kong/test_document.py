"""How errors name the place in a Kong configuration."""

from __future__ import annotations

import pytest

from mitmproxy_moesif.kong.document import KongConfigError, parse_document, without_lines


def test_an_error_names_file_and_line() -> None:
    parsed = parse_document(b"a:\n- b: 1\n", "kong.yml")
    assert str(parsed.error(("a", 0), "is wrong")) == "kong.yml:2: is wrong"


def test_values_that_came_without_a_file_have_no_line() -> None:
    assert str(without_lines("Admin API", {}).error(("a",), "is wrong")) == "Admin API: is wrong"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: \xff", "kong.yml:2: is not UTF-8"),
        (
            b'a: 1\nb: ${{ env "HOME" }}',
            "kong.yml:2: the environment variable HOME must start with DECK_, as in decK",
        ),
        (b"- " * 2000 + b"x", "kong.yml: is nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(content: bytes, message: str) -> None:
    with pytest.raises(KongConfigError) as caught:
        parse_document(content, "kong.yml")
    assert str(caught.value) == message

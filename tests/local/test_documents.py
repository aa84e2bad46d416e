"""Configuration and rules as the collector hands them out: by `put`, or from a file that may change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mitmproxy_moesif.local.documents import Document


def test_starts_empty_with_a_tag() -> None:
    assert Document(dict).current().content == b"{}"
    assert Document(list).current().content == b"[]"


def test_the_tag_goes_with_the_content() -> None:
    document = Document(dict)
    empty = document.current().tag
    document.put(b'{"sample_rate": 50}')
    assert document.current().tag != empty
    document.put(b"{}")
    assert document.current().tag == empty


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{", b"\xff"])
def test_what_does_not_fit_changes_nothing(content: bytes) -> None:
    document = Document(dict)
    document.put(b'{"a": 1}')
    with pytest.raises(ValueError, match="must be a JSON object"):
        document.put(content)
    assert document.current().content == b'{"a": 1}'


def test_follows_its_file_and_keeps_the_last_good_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "rules.json"
    document = Document(list, file)
    with caplog.at_level(logging.WARNING):
        assert document.current().content == b"[]"
        file.write_text('[{"_id": "one"}]')
        assert document.current().content == b'[{"_id": "one"}]'
        assert len(caplog.records) == 1  # that it was not there at first

        file.write_text("[{")
        assert [document.current().content for _ in range(3)] == [b'[{"_id": "one"}]'] * 3
        assert len(caplog.records) == 2
        file.unlink()
        assert document.current().content == b'[{"_id": "one"}]'


def test_put_holds_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"sample_rate": 1}')
    document = Document(dict, file)
    document.current()
    document.put(b'{"sample_rate": 2}')
    assert document.current().content == b'{"sample_rate": 2}'
    file.write_text('{"sample_rate": 30}')
    assert document.current().content == b'{"sample_rate": 30}'

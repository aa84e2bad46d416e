"""How far a file was taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mitmproxy_moesif.backfill import progress
from mitmproxy_moesif.backfill.progress import Display, Progress


def test_it_is_that_of_a_file_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    Progress(tmp_path, path).note(5)
    assert Progress(tmp_path, path).taken == 5
    path.write_text("12")
    assert Progress(tmp_path, path).taken == 0


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    kept = Progress(None, path)
    kept.note(5)
    assert Progress(None, path).taken == 0
    kept.forget()


def test_in_a_pipe_there_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    display = Display(Path("x.har"), 200)
    display.show(50, 7)
    display.close()
    assert capsys.readouterr().err == "x.har: 25 %, 7 exchanges\n"

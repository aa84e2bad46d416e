"""What the doctor says of the spool's folder."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from mitmproxy_moesif.config.destination import quarantine_of
from mitmproxy_moesif.delivery.spool.file import SpoolFile
from mitmproxy_moesif.doctor.findings import Finding
from mitmproxy_moesif.doctor.spool import examine
from tests.delivery.spool.spools import MIB, a_chunk, dead_spool
from tests.doctor.subjects import a_subject

Usage = namedtuple("Usage", "total used free")


def found(folder: Path | str) -> list[Finding]:
    return list(examine(a_subject(spool_dir=str(folder), spool_max_bytes=64 * MIB)))


def bad(findings: list[Finding]) -> list[str]:
    return [f"{finding.level} {finding.text}" for finding in findings if finding.level != "ok"]


def test_a_folder_that_is_not_there_will_be_made(tmp_path: Path) -> None:
    findings = found(tmp_path / "more" / "spool")
    assert not bad(findings)
    assert "will be created" in findings[0].text
    assert not (tmp_path / "more").exists()


def test_a_file_in_its_place_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert bad(found(tmp_path / "file" / "spool"))[0].startswith("failure")


def test_no_spool_is_a_warning() -> None:
    assert [line.split()[0] for line in bad(found("off"))] == ["warning"]


def test_a_folder_that_others_may_enter_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (line,) = bad(found(tmp_path))
    assert "mode 755" in line


def test_what_waits_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = dead_spool(folder, [a_chunk(3), a_chunk(2, destination=quarantine_of("x"))])
    folder.chmod(0o700)
    living = SpoolFile.create(folder, MIB)
    try:
        for _ in range(2):
            findings = found(folder)
            assert bad(findings) == ["warning quarantined: 2 events"]
            texts = [finding.text for finding in findings]
            assert "waiting, left by ended processes: 3 events; of running processes: 1 file" in texts
        assert path.exists()
    finally:
        living.close()


def test_what_a_backfill_left_is_told_with_how_to_send_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "backfill"
    dead_spool(folder, [a_chunk(3)])
    (finding,) = [finding for finding in found(tmp_path) if finding.level != "ok"]
    assert finding.line().split(maxsplit=2) == [
        "warning",
        "spool",
        f"left by a backfill: 3 events -> run that backfill again, or: moesif-proxy spool --folder {folder} send",
    ]


def test_a_folder_that_not_even_root_can_make_is_a_failure() -> None:
    (line,) = bad(found("/proc/moesif/spool"))[:1]
    assert line.startswith("failure /proc cannot be written to")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "spool-1.sqlite").write_bytes(b"nothing" * 1000)
    tmp_path.chmod(0o700)
    (line,) = bad(found(tmp_path))
    assert line.startswith("warning spool-1.sqlite: ")


@pytest.mark.parametrize(("free", "level"), [(1000, "failure"), (20_000_000, "warning"), (10**12, None)])
def test_too_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str | None) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, free))
    tmp_path.chmod(0o700)
    assert [line.split()[0] for line in bad(found(tmp_path))] == ([level] if level else [])


def test_each_worker_needs_room_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, 150 * MIB))
    tmp_path.chmod(0o700)
    subject = a_subject("http://127.0.0.1:9", "--workers", "3", spool_dir=str(tmp_path), spool_max_bytes=64 * MIB)
    (line,) = bad(list(examine(subject)))
    assert line == "warning 157 MB are free, and the spool may grow to 201 MB (67 MB for each of 3 workers)"

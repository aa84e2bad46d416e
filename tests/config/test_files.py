"""Home folders in names of files, and a user who has none, as in some containers."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from mitmproxy_moesif.backfill.main import main as backfill
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.runtime import Prepared
from mitmproxy_moesif.workers.main import main as moesif_proxy
from tests.support import APPLICATION_ID


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_a_home_folder_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/x") == Path("/home/ada/x")
    assert expanded("x/~") == Path("x/~")
    assert expanded("~nobody-is-called-so/x") == Path("~nobody-is-called-so/x")


def test_without_a_home_folder_the_name_stays(homeless: None) -> None:
    assert expanded("~/x") == Path("~/x")


def test_without_a_home_folder_events_are_kept_nowhere_else(homeless: None) -> None:
    given, confdir = {"application_id": APPLICATION_ID}, expanded("~/.mitmproxy")
    with pytest.raises(SettingsError, match="spool_dir is missing: this user has no home folder to keep events in"):
        Prepared.of(given, confdir=confdir)
    Prepared.of({**given, "spool_dir": "/tmp/spool"}, confdir=confdir)
    Prepared.of(given, confdir=Path("/etc/mitmproxy"))


def test_commands_of_a_user_without_a_home_folder_say_so_in_one_line(
    homeless: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOESIF_APPLICATION_ID", APPLICATION_ID)
    monkeypatch.delenv("MOESIF_SPOOL_DIR", raising=False)
    assert backfill([__file__]) == 1
    assert moesif_proxy(["spool", "list"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "moesif-proxy backfill: spool_dir is missing: this user has no home folder to keep events in",
        "moesif: there is no folder ~/.mitmproxy/moesif-spool",
    ]

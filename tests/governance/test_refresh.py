"""Rules of one's own in force from a file that is watched: what is newest stays in force."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.governance.refresh import Refresher, RulesFile
from tests.bench.rules import rules
from tests.governance.builders import View, blocking, conditions


def write(path: Path, count: int) -> None:
    path.write_text(json.dumps(rules(count)))


def watch(refresher: Refresher, instance: Instance) -> None:
    """Look twice, since a file counts as changed when two looks find it the same."""
    for _ in range(2):
        refresher._watch(refresher._accounts[instance.account])


def test_one_rule_that_cannot_be_applied_refuses_the_file(tmp_path: Path) -> None:
    """Else a slip would leave the quota of another one open."""
    path = tmp_path / "rules.json"
    wrong = blocking("bad", regex_config=[conditions(("route", "(?<=a)b"))])
    path.write_text(json.dumps([blocking("good"), wrong]))
    with pytest.raises(SettingsError, match=rf"^rules_file: {path}: rule bad \(Rule bad\): the pattern"):
        RulesFile.read(str(path))


def test_a_rules_file_that_changes_before_it_is_watched_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text("[]")
    local = RulesFile.read(str(path)).rules
    path.write_text(json.dumps([blocking("r1")]))
    instance = Instance.compile(parse_settings({"rules_file": str(path)}))
    refresher = Refresher(None)
    refresher.configure(instance, local)
    refresher.start()
    try:
        deadline = time.monotonic() + 30
        while refresher.snapshot(instance.account).decide(View(), None, None).block is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        refresher.stop()


def test_rules_that_the_watch_has_read_survive_a_change_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    write(path, 1)
    instance = Instance.compile(parse_settings({"application_id": "x", "rules_file": str(path)}))
    at_start = RulesFile.read(str(path)).rules
    refresher = Refresher(None)
    refresher.configure(instance, at_start)
    write(path, 3)
    watch(refresher, instance)
    refresher.configure(instance, at_start)
    assert len(refresher.snapshot(instance.account).rules.local.rules) == 3
    refresher.configure(instance, RulesFile.read(str(path)).rules)
    write(path, 2)
    watch(refresher, instance)
    assert len(refresher.snapshot(instance.account).rules.local.rules) == 2


def test_a_folder_that_one_may_not_enter_is_told_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)  # root may enter everywhere
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    Refresher(tmp_path).configure(Instance.compile(parse_settings({"application_id": "x"})), RulesFile.read(None).rules)
    assert [message for message in caplog.messages if "cannot be read; Moesif is asked for it" in message]


def test_accounts_with_the_same_rules_share_them_compiled(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    write(path, 5)
    local = RulesFile.read(str(path)).rules
    refresher = Refresher(None)
    instances = [Instance.compile(parse_settings({"application_id": name})) for name in ("one", "another")]
    for instance in instances:
        refresher.configure(instance, local)
    one, another = (refresher.snapshot(instance.account).rules for instance in instances)
    assert one is another

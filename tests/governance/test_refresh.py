"""Rules of one's own in force from a file that is watched: what is newest stays in force."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.governance.refresh import Refresher, RulesFile
from tests.bench.rules import rules
from tests.governance.builders import View, blocking, conditions
from tests.support.collector import Answer, Script, ScriptedCollector


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
    assert [message for message in caplog.messages if "cannot be read; fetching it from Moesif" in message]


def refresh_often(
    collector: ScriptedCollector, scripts: Sequence[Script], caplog: pytest.LogCaptureFixture
) -> list[str]:
    """What the log says of the refresh, with one of these scripts for each minute."""
    minutes = itertools.count(0, 60)
    refresher = Refresher(None, clock=lambda: float(now))
    settings = parse_settings({"application_id": "x", "api_endpoint": collector.url})
    instance = Instance.compile(settings)
    refresher.configure(instance, RulesFile.read(None).rules)
    with caplog.at_level("INFO"):
        for now, script in zip(minutes, scripts, strict=False):  # noqa: B007 - the clock's
            collector.document_script = script
            refresher._refresh(instance.account, refresher._accounts[instance.account])
    told = [message.removeprefix("moesif: ") for message in caplog.messages]
    return [message.partition(" (")[0] for message in told if "refresh" in message or "up to date" in message]


AGAIN = "configuration and rules from Moesif are up to date again"


def fails(*paths: str, status: int = 500) -> Script:
    return lambda received: Answer(status) if received.path in paths else None


def test_one_document_that_is_not_refreshed_is_told_once_and_its_end_when_none_is(
    collector: ScriptedCollector, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the other one goes on being refreshed."""
    config, rules, both = fails("/v1/config"), fails("/v1/rules", status=404), fails("/v1/config", "/v1/rules")
    scripts = [fails(), config, config, both, rules, fails(), both, both, fails()]
    assert refresh_often(collector, scripts, caplog) == [
        "cannot refresh /v1/config",
        "cannot refresh /v1/rules",
        AGAIN,
        "cannot refresh /v1/config and /v1/rules",
        AGAIN,
    ]


def test_an_answer_that_nothing_has_changed_ends_the_trouble(
    collector: ScriptedCollector, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a second time without Moesif would not be told."""
    everything = fails("/v1/config", "/v1/rules")
    unchanged = fails("/v1/config", "/v1/rules", status=304)
    assert refresh_often(collector, [fails(), everything, unchanged, everything], caplog) == [
        "cannot refresh /v1/config and /v1/rules",
        AGAIN,
        "cannot refresh /v1/config and /v1/rules",
    ]


TAGS = {"X-Moesif-Config-Etag": "c1", "X-Moesif-Rules-Tag": "r1"}


def documents_asked_for(collector: ScriptedCollector, tags: Sequence[dict[str, str]]) -> list[str]:
    """By batches that are answered with these, one each minute."""
    minutes = itertools.count(0, 60)
    refresher = Refresher(None, clock=lambda: float(now))
    instance = Instance.compile(parse_settings({"application_id": "x", "api_endpoint": collector.url}))
    refresher.configure(instance, RulesFile.read(None).rules)
    account = refresher._accounts[instance.account]
    asked = []
    for now, told in zip(minutes, tags, strict=False):  # noqa: B007 - the clock's
        refresher._refresh(instance.account, account)
        refresher.answered(instance.account, told)
        asked += [document.path for document in (account.config, account.rules) if document.stale]
    return asked


@pytest.mark.parametrize("etag", [None, 'W/"compressed"'])
def test_what_a_get_says_is_its_tag_is_asked_for_no_more(collector: ScriptedCollector, etag: str | None) -> None:
    """Moesif's answers to a GET bear the headers of its answers to batches, an ETag they need not have."""
    collector.document_script = lambda received: replace(collector.plain(received), headers={**TAGS, "ETag": etag})
    newer = {**TAGS, "X-Moesif-Rules-Tag": "r2"}
    assert documents_asked_for(collector, [TAGS, {}, TAGS, newer]) == ["/v1/rules"]


def test_a_get_without_a_tag_is_of_the_last_one_that_was_told(collector: ScriptedCollector) -> None:
    none = dict.fromkeys((*TAGS, "ETag"))
    collector.document_script = lambda received: replace(collector.plain(received), headers=none)
    assert documents_asked_for(collector, [TAGS, TAGS, {}, TAGS]) == ["/v1/config", "/v1/rules"]


@pytest.mark.parametrize("answer", [Answer(500), Answer(200, body=b"[{"), Answer(how="drop")])
def test_what_was_not_taken_is_asked_for_each_minute_and_when_there_is_another(
    collector: ScriptedCollector, answer: Answer
) -> None:
    """Not after each batch: it may be ten megabytes."""
    config = Answer(200, TAGS, b"{}")
    collector.document_script = lambda received: answer if received.path == "/v1/rules" else config
    tags = [{**TAGS, "X-Moesif-Rules-Tag": tag} for tag in ("r1", "r1", "r2", "r2")]
    assert documents_asked_for(collector, tags) == ["/v1/rules", "/v1/rules"]


def test_a_former_account_is_asked_for_no_more_and_decides_what_is_under_way(collector: ScriptedCollector) -> None:
    """Its application id may be revoked, which nobody has to mend."""
    now = 0.0
    collector.rules = [blocking("r1")]
    refresher = Refresher(None, clock=lambda: now)
    old, new = (
        Instance.compile(parse_settings({"application_id": name, "api_endpoint": collector.url}))
        for name in ("old", "new")
    )
    for current in (old, new, old):
        refresher.configure(current, RulesFile.read(None).rules)
        refresher.keep({current.account})
        for account in (old.account, new.account):
            if account in refresher._accounts:
                refresher._refresh(account, refresher._accounts[account])
        assert 0.1 < refresher._until_refresh() <= 60
        now += 60
    asked = [request.headers["x-moesif-application-id"] for request in collector.requests()]
    assert asked == ["old", "old", "new", "new", "old", "old"]
    assert refresher.snapshot(new.account).decide(View(), None, None).block is not None


def test_without_an_application_id_nothing_is_waited_for() -> None:
    refresher = Refresher(None)
    refresher.configure(Instance.compile(parse_settings({"sink_file": "events.ndjson"})), RulesFile.read(None).rules)
    assert refresher._until_refresh() == 60


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

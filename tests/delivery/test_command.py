"""`moesif-proxy spool`: what it tells, and what becomes of events that nobody sends."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mitmproxy_moesif.config.destination import quarantine_of
from mitmproxy_moesif.delivery import attempt, sender
from mitmproxy_moesif.delivery.spool import maintenance
from mitmproxy_moesif.delivery.spool.decisions import Decisions
from mitmproxy_moesif.workers.main import main
from tests.delivery.pipelines import Sending, an_instance, chunk_for, sending
from tests.delivery.spool.spools import dead_spool
from tests.support.collector import NEVER, Answer, ScriptedCollector, refuse_events

ELSE = "0" * 16 + "@else.test/12345678"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "INTERVAL", 0.01)


def spool(folder: Path, *arguments: str) -> int:
    return main(["spool", "--folder", str(folder), *arguments])


def wait_until_nothing_is_unsent(proxy: Sending) -> None:
    while proxy.pipeline.condition().unsent:
        proxy.pipeline.ledger.changed.wait(0.05)


def test_list_tells_whose_events_wait_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["a", "b"]), chunk_for(quarantine_of(ELSE), ["c"]), chunk_for(ELSE, ["d"])])
    assert spool(folder, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" since ")[0] for line in lines] == [
        f"{ELSE}  3 events waiting",
        f"{ELSE}!quarantine  1 event quarantined",
    ]
    assert spool(folder, "list") == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_list_looks_into_the_folder_of_backfill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead_spool(tmp_path / "backfill", [chunk_for(ELSE, ["a"])])
    assert spool(tmp_path, "list") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{ELSE}  1 event waiting since ")
    assert line.endswith(f" (in {tmp_path / 'backfill'})")


def test_list_says_that_nothing_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spool(tmp_path, "list") == 0
    assert capsys.readouterr().out == f"nothing waits in {tmp_path}\n"


def test_list_tells_of_files_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedCollector() as collector, sending(tmp_path / "spool", an_instance(collector)):
        assert spool(tmp_path / "spool", "list") == 0
    assert "belongs to a process that runs" in capsys.readouterr().out


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spool(tmp_path / "nothing", "list") == 1
    assert capsys.readouterr().err == f"moesif: there is no folder {tmp_path / 'nothing'}\n"
    assert spool(Path("off"), "list") == 1
    assert capsys.readouterr().err.startswith("moesif: spool_dir is off, so that nothing is on disk")


@pytest.mark.parametrize("running", [True, False])
def test_dropped_events_are_counted(running: bool, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["a", "b"])])
    if not running:
        assert spool(folder, "drop", ELSE) == 0
    with ScriptedCollector() as collector, sending(folder, an_instance(collector)) as proxy:
        proxy.pipeline.look(10)
        if running:
            assert spool(folder, "drop", ELSE) == 0
        wait_until_nothing_is_unsent(proxy)
    assert (proxy.end.captured, proxy.end.waiting, proxy.end.dropped) == (2, 0, {"discarded": 2})


def test_a_decision_about_what_a_backfill_left_is_no_proxys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "backfill"
    dead_spool(folder, [chunk_for(ELSE, ["a"])])
    assert spool(folder, "drop", ELSE) == 0
    assert capsys.readouterr().out == (
        f"noted: the next backfill does it, or moesif-proxy spool --folder {folder} send\n"
    )


def test_quarantined_events_are_sent_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with ScriptedCollector() as collector:
        instance = an_instance(collector)
        dead_spool(folder, [chunk_for(quarantine_of(instance.destination), ["a", "b"])])
        with sending(folder, instance) as proxy:
            proxy.pipeline.look(10)
            assert spool(folder, "retry", instance.destination) == 0
            collector.wait_for(2)
        assert (proxy.end.delivered, proxy.end.waiting) == (2, 0)


def test_assigned_events_are_sent_as_those_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["a", "b"])])
    with ScriptedCollector() as collector:
        instance = an_instance(collector)
        with sending(folder, instance) as proxy:
            proxy.pipeline.look(10)
            assert spool(folder, "assign", ELSE, instance.destination) == 0
            collector.wait_for(2)
        assert (proxy.end.delivered, proxy.end.waiting) == (2, 0)


def test_an_event_that_is_quarantined_again_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(attempt, "PAUSES", (0.001, 0.001))
    folder = tmp_path / "spool"
    with ScriptedCollector() as collector:
        collector.script = refuse_events(lambda event: event["transaction_id"] == "a", 404)
        instance = an_instance(collector)
        dead_spool(folder, [chunk_for(quarantine_of(instance.destination), ["a", "b"])])
        with sending(folder, instance) as proxy:
            proxy.pipeline.look(10)
            assert spool(folder, "retry", instance.destination) == 0
            collector.wait_for(1)
            while (one := proxy.pipeline.condition().unsent.get(quarantine_of(instance.destination))) is None:
                proxy.pipeline.ledger.changed.wait(0.05)
            posts = len(collector.posts())
            proxy.pipeline._maintenance._store.decide()
            assert one.events == 1
        assert len(collector.posts()) == posts


def test_events_are_not_dropped_for_an_earlier_decision_about_where_they_go(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with ScriptedCollector() as collector:
        instance = an_instance(collector)
        dead_spool(folder, [chunk_for(ELSE, ["a"]), chunk_for(instance.destination, ["b"])])
        assert spool(folder, "drop", instance.destination) == 0
        assert spool(folder, "assign", ELSE, instance.destination) == 0
        assert spool(folder, "assign", ELSE, ELSE) == 1
        with sending(folder, instance) as proxy:
            collector.wait_for(2)
        assert proxy.end.delivered == 2


def test_what_came_after_a_decision_is_not_meant(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["before"])])
    assert spool(folder, "drop", ELSE) == 0
    dead_spool(folder, [chunk_for(ELSE, ["a"])])
    with ScriptedCollector() as collector:
        instance = an_instance(collector)
        with sending(folder, instance) as proxy:
            proxy.pipeline.look(10)
            assert spool(folder, "assign", ELSE, instance.destination) == 0
            collector.wait_for(1)
        assert collector.unique_ids() == {"a"}
    assert proxy.end.dropped == {"discarded": 1}


def test_send_takes_what_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "spool"
    with ScriptedCollector() as collector:
        dead_spool(folder, [chunk_for(an_instance(collector).destination, ["a", "b"]), chunk_for(ELSE, ["c"])])
        monkeypatch.setenv("MOESIF_APPLICATION_ID", "one")
        monkeypatch.setenv("MOESIF_API_ENDPOINT", collector.url)
        assert spool(folder, "send") == 1
        assert collector.unique_ids() == {"a", "b"}
        said = capsys.readouterr()
        first, last = said.out.splitlines()
        assert first.startswith(f"sending what waits for {an_instance(collector).account}/")
        assert first.endswith(f" to {collector.url}, for at most 60 s")
        assert last == "captured 3, delivered 2, waiting 1, dropped 0"
        assert said.err == f"moesif: not sent: 1 event ({ELSE} is not configured)\n"
        assert spool(folder, "drop", ELSE) == 0
        assert spool(folder, "send") == 0


@pytest.mark.parametrize(("answer", "why"), [(Answer(401), "status 401"), (Answer(how="reset"), "the connection to")])
def test_send_says_what_waits_when_the_time_is_over(
    answer: Answer, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedCollector() as collector:
        collector.script = lambda _: answer
        dead_spool(tmp_path / "spool", [chunk_for(an_instance(collector).destination, ["a", "b"])])
        monkeypatch.setenv("MOESIF_APPLICATION_ID", "one")
        monkeypatch.setenv("MOESIF_API_ENDPOINT", collector.url)
        assert spool(tmp_path / "spool", "send", "--timeout", "1") == 1
        said = capsys.readouterr()
    assert "for at most 1 s\n" in said.out
    assert "waiting 2" in said.out
    assert f"moesif: not sent: 2 events ({why}" in said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_send_can_be_interrupted_and_says_what_waits(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(collector: ScriptedCollector) -> None:
        collector.wait_for(lambda c: bool(c.posts()))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with ScriptedCollector() as collector:
        collector.script = lambda _: NEVER
        dead_spool(tmp_path / "spool", [chunk_for(an_instance(collector).destination, ["a", "b"])])
        monkeypatch.setenv("MOESIF_APPLICATION_ID", "one")
        monkeypatch.setenv("MOESIF_API_ENDPOINT", collector.url)
        monkeypatch.setenv("MOESIF_SEND_TIMEOUT", "50000")
        interrupting = threading.Thread(target=interrupt, args=[collector])
        interrupting.start()
        assert spool(tmp_path / "spool", "send", "--timeout", "100") == 1
        interrupting.join()
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "captured 2, delivered 0, waiting 2, dropped 0"
    assert said.err == "moesif: not sent: 2 events (interrupted)\n"
    assert signal.getsignal(number) == before


def test_send_without_an_application_id_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MOESIF_APPLICATION_ID", raising=False)
    assert spool(tmp_path, "send") == 1
    assert capsys.readouterr().err.startswith("moesif: nobody to send to: set MOESIF_APPLICATION_ID")


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "soon"])
def test_send_takes_a_time_that_is_one(seconds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        spool(tmp_path, "send", "--timeout", seconds)


@pytest.mark.parametrize("command", ["drop", "retry"])
@pytest.mark.parametrize("name", ["nope", "", "../x", ELSE + "x", "1" * 16 + "@else.test/12345678"])
def test_an_unknown_destination_is_refused_and_what_there_is_is_told(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["a"])])
    assert spool(folder, command, name) == 1
    assert f"there is no destination {name};" in (said := capsys.readouterr().err)
    assert said.endswith(f"; there are: {ELSE}\n")
    assert not (folder / "decisions.json").exists()


@pytest.mark.parametrize("name", [ELSE, quarantine_of(ELSE)])
def test_a_retry_of_what_is_not_quarantined_says_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead_spool(tmp_path, [chunk_for(ELSE, ["a"])])
    assert spool(tmp_path, "retry", name) == 1
    assert capsys.readouterr().err == f"moesif: nothing of {ELSE} is quarantined; waiting: 1 event\n"
    assert not (tmp_path / "decisions.json").exists()


@pytest.mark.parametrize("to", ["nope", "", quarantine_of(ELSE), "1" * 16 + "@else.test", "1" * 15 + "@x/12345678"])
def test_events_are_assigned_to_nothing_but_a_destination(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "spool"
    dead_spool(folder, [chunk_for(ELSE, ["a"])])
    assert spool(folder, "assign", ELSE, to) == 1
    assert f"{to} is no destination" in capsys.readouterr().err
    assert not (folder / "decisions.json").exists()


def test_what_a_running_process_has_needs_the_form_of_a_destination(tmp_path: Path) -> None:
    with ScriptedCollector() as collector, sending(tmp_path / "spool", an_instance(collector)):
        assert spool(tmp_path / "spool", "drop", "nope") == 1
        assert spool(tmp_path / "spool", "drop", ELSE) == 0


def test_the_folder_may_stand_after_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead_spool(tmp_path / "spool", [chunk_for(ELSE, ["a"])])
    assert main(["spool", "list", "--folder", str(tmp_path / "spool")]) == 0
    assert capsys.readouterr().out.startswith(f"{ELSE}  1 event waiting since")


def test_decisions_in_a_folder_that_one_may_not_enter_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)  # root may enter everywhere
    decisions = Decisions(tmp_path)
    for _ in range(5):
        assert decisions.current() == ()
    assert len(caplog.messages) == 1

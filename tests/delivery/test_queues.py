"""Which collector a queue's events reach, and with which settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.delivery.pipelines import an_instance, chunk_for, sending
from tests.delivery.spool.spools import dead_spool
from tests.support.collector import Answer, ScriptedCollector

OLD = hashlib.sha256(b"one").hexdigest()[:16]


def test_two_instances_with_one_application_id_reach_each_its_own_collector() -> None:
    with ScriptedCollector() as here, ScriptedCollector() as there:
        first, second = an_instance(here), an_instance(there)
        with sending(None, first, second) as proxy:
            proxy.put(first, "a", "b")
            proxy.put(second, "c")
            here.wait_for(2)
            there.wait_for(1)
        assert (here.unique_ids(), there.unique_ids()) == ({"a", "b"}, {"c"})


def test_two_instances_with_one_application_id_keep_each_its_own_batches() -> None:
    with ScriptedCollector() as collector:
        small, large = an_instance(collector, batch_size=1), an_instance(collector, batch_size=50, flush_interval=200)
        with sending(None, small, large) as proxy:
            proxy.put(small, "a", "b")
            proxy.put(large, "c", "d")
            collector.wait_for(4)
        assert sorted(post.ids for post in collector.posts()) == [["a"], ["b"], ["c", "d"]]


def test_the_spool_of_an_older_release_is_sent_by_its_account(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead_spool(tmp_path / "spool", [chunk_for(OLD, ["a", "b"]), chunk_for("0" * 16, ["not ours"])])
    with ScriptedCollector() as collector:
        with sending(tmp_path / "spool", an_instance(collector)) as proxy:
            collector.wait_for(2)
        assert proxy.condition.oldest_at is None
        assert proxy.condition.unsent["0" * 16].events == 1
        assert proxy.condition.unsent["0" * 16].state == "not configured"
        assert f"{'0' * 16} is not configured" in caplog.text
        assert (proxy.end.delivered, proxy.end.waiting) == (2, 1)
        assert collector.unique_ids() == {"a", "b"}


def test_what_waits_goes_to_a_changed_endpoint() -> None:
    with ScriptedCollector(refusing=True) as away, ScriptedCollector() as collector:
        before, after = an_instance(away), an_instance(collector)
        with sending(None, before) as proxy:
            proxy.put(before, "a")
            proxy.pipeline._builder.flush(5)
            proxy.pipeline.configure([after])
            collector.wait_for(1)
            proxy.put(before, "b")  # an exchange that began before the change
            collector.wait_for(2)


def test_a_former_account_that_takes_nothing_is_unsent_until_it_is_configured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log, the condition and what happens say the same: at the change, after it, after a start, and at the end."""
    with ScriptedCollector() as collector:
        collector.script = lambda _: Answer(401)
        before, after = an_instance(collector, "one"), an_instance(collector, "two")
        with sending(tmp_path / "spool", before) as proxy:
            proxy.put(before, "a")
            collector.wait_for(lambda collector: bool(collector.posts()))
            while not proxy.pipeline.condition().health[before.destination].unauthorized:
                proxy.pipeline.ledger.changed.wait(0.05)
            proxy.pipeline.configure([after])
            now = proxy.pipeline.condition()
            assert list(now.health) == [after.destination]
            assert {name: one.events for name, one in now.unsent.items()} == {before.destination: 1}
            assert now.oldest_at is None
            assert f"{before.destination} is not configured" in caplog.text
            collector.script = lambda _: None
            proxy.put(before, "b")  # an exchange that began before the change
            proxy.put(after, "c")
            collector.wait_for(1)
        assert collector.unique_ids() == {"c"}
        assert proxy.condition.unsent[before.destination].events == 2
        with sending(tmp_path / "spool", after) as proxy:
            proxy.pipeline.look(10)
            assert proxy.pipeline.condition().unsent[before.destination].events == 2
            proxy.pipeline.configure([before])
            collector.wait_for(3)
        assert (proxy.condition.unsent, proxy.end.waiting) == ({}, 0)


def test_a_former_account_sends_what_was_captured_for_it_as_long_as_it_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedCollector() as collector:
        before, after = an_instance(collector, "one", flush_interval=60_000), an_instance(collector, "two")
        with sending(tmp_path / "spool", before) as proxy:
            proxy.put(before, "a")
            proxy.pipeline._builder.flush(5)
            proxy.pipeline.configure([after])
            assert proxy.pipeline.condition().unsent == {}
            proxy.put(before, "b")  # an exchange that began before the change
        assert collector.unique_ids() == {"a", "b"}
        assert list(proxy.condition.health) == [after.destination]
        assert "not configured" not in caplog.text


def test_a_former_account_is_given_up_when_it_takes_nothing_any_more(tmp_path: Path) -> None:
    with ScriptedCollector() as collector:
        collector.script = lambda _: Answer(401)
        before, after = an_instance(collector, "one", flush_interval=60_000), an_instance(collector, "two")
        with sending(tmp_path / "spool", before) as proxy:
            proxy.put(before, "a")
            proxy.pipeline._builder.flush(5)
            proxy.pipeline.configure([after])
            proxy.put(before, *map(str, range(100)))  # a full batch
            while not proxy.pipeline.condition().unsent:
                proxy.pipeline.ledger.changed.wait(0.05)
        assert list(proxy.condition.health) == [after.destination]
        assert proxy.condition.unsent[before.destination].events == 101


def test_a_changed_endpoint_is_tried_at_once() -> None:
    """What the former one answered says nothing of it."""
    with ScriptedCollector() as wrong, ScriptedCollector() as collector:
        wrong.script = lambda _: Answer(401)
        before, after = an_instance(wrong), an_instance(collector)
        with sending(None, before) as proxy:
            proxy.put(before, "a")
            while not proxy.pipeline.condition().health[before.destination].unauthorized:
                proxy.pipeline.ledger.changed.wait(0.05)
            proxy.pipeline.configure([after])
            collector.wait_for(1)

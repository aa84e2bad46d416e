"""Which collector a queue's events reach, and with which settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.delivery.pipelines import an_instance, chunk_for, sending
from tests.delivery.spool.spools import dead_spool
from tests.support.collector import ScriptedCollector

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

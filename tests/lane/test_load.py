"""Under load, while the proxy is told things, ends, or loses workers: no answer is wrong, and no event unaccounted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lane.load import Seen, asking, upstream
from tests.support.addon import exit_counts
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option

CONNECTIONS = 500
ANSWERS = int(os.environ.get("TEST_LANE_ANSWERS", "2000"))
"""That are waited for; most machines give more meanwhile."""

Start = Callable[..., MoesifProxy]


def options(folder: Path) -> dict[str, Option]:
    return {"moesif_engine": "fast", "moesif_sink_file": str(folder / "events"), "moesif_flush_interval": 50}


def events(folder: Path) -> list[str]:
    """The transaction ids in the receiver."""
    return [json.loads(line)["transaction_id"] for line in (folder / "events").read_text().splitlines()]


def judge(seen: Seen, proxy: MoesifProxy, folder: Path, *, twice: bool = False) -> set[str]:
    """What was answered and has no event. `twice`: the receiver may have some again, of a worker that was killed."""
    assert seen.wrong == []
    assert "none" not in seen.answered
    assert len(seen.answered) == len(set(seen.answered)) >= ANSWERS
    assert "Traceback" not in proxy.output
    assert "crashed" not in proxy.output
    counts, kept = exit_counts(proxy.output), events(folder)
    assert counts["captured"] == counts["delivered"] + counts["waiting"] + counts["dropped"]
    assert counts["delivered"] <= len(set(kept)) <= counts["delivered"] + counts["waiting"], counts
    assert twice or len(kept) == len(set(kept))
    return set(seen.answered) - set(kept)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_that_was_answered_before_the_end_has_its_event(workers: int, moesif_proxy: Start, tmp_path: Path) -> None:
    """It is told to read its configuration again meanwhile, and ends in the middle of the load."""
    with upstream() as url:
        proxy = moesif_proxy(url, options(tmp_path), workers=workers)
        with asking(proxy.port, CONNECTIONS) as load:
            for _ in range(4):
                load.wait_for(ANSWERS // 5)
                proxy.send_signal(signal.SIGHUP)
            load.wait_for(ANSWERS // 5)
            assert proxy.stop(timeout=60) == 0
    assert judge(load.seen, proxy, tmp_path) == set()
    assert exit_counts(proxy.output)["causes"] == {}


def test_workers_that_are_killed_cost_what_they_had_not_handed_over(moesif_proxy: Start, tmp_path: Path) -> None:
    """An answer that was cut is none; lost may be what was captured in the last 20 ms, or turn of the event loop."""
    kills = 2
    with upstream() as url:
        proxy = moesif_proxy(url, options(tmp_path), workers=2)
        with asking(proxy.port, CONNECTIONS) as load:
            for number in range(kills):
                load.wait_for(ANSWERS // 4)
                os.kill(proxy.workers()[0], signal.SIGKILL)
                proxy.wait_for_output("was ended by SIGKILL", count=number + 1)
            load.wait_for(ANSWERS // 2)
        assert proxy.stop(timeout=60) == 0
    assert len(judge(load.seen, proxy, tmp_path, twice=True)) <= CONNECTIONS * kills

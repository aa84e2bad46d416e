"""What the operator decided about stored events, noted in the spool's folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mitmproxy_moesif.delivery.spool.decisions import KEPT, Decision, add, read


def test_what_several_note_at_once_is_all_kept(tmp_path: Path) -> None:
    decisions = [Decision(f"{number:016x}@else.test/12345678", None, 1.0) for number in range(KEPT)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda decision: add(tmp_path, decision), decisions))
    assert {one.destination for one in read(tmp_path)} == {one.destination for one in decisions}
    assert {file.name for file in tmp_path.iterdir()} == {"decisions.json", ".decisions.lock"}

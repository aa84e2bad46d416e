"""Rules of one's own in force from a file that is watched."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.governance.refresh import Refresher, read_local_rules
from tests.governance.builders import View, blocking


def test_a_rules_file_that_changes_before_it_is_watched_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text("[]")
    local = read_local_rules(str(path))
    path.write_text(json.dumps([blocking("r1")]))
    instance = Instance.compile(parse_settings({"rules_file": str(path)}))
    refresher = Refresher(None)
    refresher.configure(instance, local)
    refresher.start()
    try:
        deadline = time.monotonic() + 30
        while refresher.snapshot(instance.destination).decide(View(), None, None).block is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        refresher.stop()

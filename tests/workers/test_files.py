"""A worker that starts again while a file is half-edited reads what was last in force."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from mitmproxy_moesif.config.files import Files
from tests.support import APPLICATION_ID
from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import ScriptedUpstream
from tests.test_lifecycle import BLOCK_EVERY_GET, Waiting
from tests.workers.test_supervisor import wait_for_workers

HOOKS = "def identify_user(exchange):\n    return 'by-hook'\n"
KONG = """
_format_version: "3.0"
plugins:
- {name: moesif, config: {application_id: of-kong, api_version: of-kong}}
"""
CONFIG = "moesif_api_version: of-config\n"


def kill_all(proxy: MoesifProxy) -> None:
    before = set(proxy.workers())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for_workers(proxy, len(before), without=before)


def test_workers_come_back_while_files_are_half_edited(
    moesif_proxy: Callable[..., MoesifProxy], upstream: ScriptedUpstream, collector: ScriptedCollector, tmp_path: Path
) -> None:
    contents = {"rules": BLOCK_EVERY_GET, "hooks": HOOKS, "kong": KONG, "config": CONFIG}
    paths = {name: tmp_path / f"{name}.file" for name in contents}
    for name, content in contents.items():
        paths[name].write_text(content)
    options = addon_options(
        collector, rules_file=str(paths["rules"]), hooks=str(paths["hooks"]), kong_config=str(paths["kong"])
    )
    proxy = moesif_proxy(upstream.url, options, "--config", str(paths["config"]), workers=2)
    for path in paths.values():
        path.write_text("moesif_api_version: [half\n:")
    kill_all(proxy)
    proxy.wait_for_output("with the files last applied")
    assert set(Waiting(proxy.port, each=1).start().join()) == {451}
    event = collector.wait_for(1)[0]
    assert (event["user_id"], event["request"]["api_version"]) == ("by-hook", "of-config")
    assert proxy.stop() == 0


def test_no_argument_of_the_proxy_stands_in_the_command_line_of_a_worker(
    moesif_proxy: Callable[..., MoesifProxy], upstream: ScriptedUpstream, collector: ScriptedCollector
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2, forked=False)
    for pid in proxy.workers():
        assert APPLICATION_ID.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_file_is_kept_when_it_came_into_force() -> None:
    files, told = Files(), dict[str, bytes]()
    files.begin({}, told.__setitem__)
    files.get("a", lambda: b"good")
    files.in_force("a")
    files.get("a", lambda: b"half")
    files.in_force("b")
    assert told == {"a": b"good"}


def test_what_is_kept_is_read_until_all_has_started(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"half")
    files = Files()
    files.begin({str(path): b"good"}, lambda name, content: None)
    assert files.read(path) == b"good"
    files.started()
    assert files.read(path) == b"half"

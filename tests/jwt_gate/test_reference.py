"""The gate's table on the page of options is the one that is made from them."""

from __future__ import annotations

import re
import subprocess
import sys

from mitmproxy_moesif.config.reference import markdown
from mitmproxy_moesif.jwt_gate.settings import GateSettings
from tests.support import REPOSITORY

SECTION = (REPOSITORY / "compose" / "OPTIONS.md").read_text().split("\n## JWT gate\n")[1].split("\n## ")[0]


def test_the_table_on_the_page_is_the_one_that_is_made() -> None:
    assert markdown(GateSettings) in SECTION


def test_every_option_is_in_it_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| .+ \|$", SECTION, re.MULTILINE)
    expected = {"jwt_gate": "false", "jwt_exit_code": "401", "jwt_required": "false", "jwt_leeway": "0"}
    assert dict(rows) == {name: expected.get(name, "none") for name in GateSettings.model_fields}


def test_it_is_printed() -> None:
    command = [sys.executable, "-m", "mitmproxy_moesif.jwt_gate.reference"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY / "addon", timeout=60)
    assert told.stdout == markdown(GateSettings) + "\n"

"""The command lines as their users first meet them: help, the list of options, and the path of the script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mitmproxy_moesif.config.settings import Settings, option_name
from mitmproxy_moesif.jwt_gate.settings import GateSettings
from tests.support import ADDON_SCRIPT
from tests.support.proxy import BIN

PACKAGE = [sys.executable, "-m", "mitmproxy_moesif"]
PROXY = [str(BIN / "moesif-proxy")]


def written(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def words(text: str) -> str:
    return " ".join(text.split())


def test_without_a_command_the_path_of_the_script_is_printed() -> None:
    assert Path(written(*PACKAGE).rstrip("\n")).samefile(ADDON_SCRIPT)


@pytest.mark.parametrize("command", [PACKAGE, PROXY], ids=["package", "moesif-proxy"])
def test_help_names_every_command(command: list[str]) -> None:
    said = words(written(*command, "--help"))
    assert "the path of the script for `mitmdump -s`" in said
    assert {"run", "proxy", "moesif-proxy", "forward", "page", "spool"} <= set(re.findall(r"[\w-]+", said))


def test_each_command_has_help_of_its_own() -> None:
    assert "--page-port" in written(*PACKAGE, "run", "--help")
    assert written(*PACKAGE, "proxy", "--help") == written(*PROXY, "--help")


@pytest.mark.parametrize("name", ["", "backfill", "collector", "doctor", "forward", "page", "spool", "run", "debug"])
def test_what_a_command_line_is_refused_for_is_one_line(name: str) -> None:
    command = [*(PACKAGE if name in ("run", "debug") else PROXY), *filter(None, [name]), "--lisetn=s3cret"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.endswith("--help")
    assert "s3cret" not in line


def test_moesif_proxy_lists_its_options_with_defaults_and_help() -> None:
    listed = written(*PROXY, "--options")
    names = [*map(option_name, Settings.model_fields), *GateSettings.model_fields, "keep_host_header"]
    assert [name for name in names if f"\n{name}:" not in listed] == []
    assert "\nmoesif_batch_size: 50\n" in listed
    help_texts = words(listed.replace("\n# ", " "))
    assert words(Settings.model_fields["batch_size"].description or "?") in help_texts


def test_a_wrong_value_is_told_in_place_of_the_options() -> None:
    ended = subprocess.run([*PROXY, "--options", "--set", "keep_host_header=x"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "keep_host_header" in ended.stderr
    assert "Traceback" not in ended.stderr

"""What SIGHUP reads again: files that options name, also where the options stay as they are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mitmproxy.options import Options

from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.proxy.configuration import KINDS, Configuration, ConfigurationError, read
from tests.jwt_gate.signing import jwk, rsa_key, write_jwks
from tests.support.addon import addon_options, exit_counts
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import ScriptedUpstream
from tests.workers.test_supervisor import wait_for_workers

Start = Callable[..., MoesifProxy]

HOOKS = "def identify_user(exchange):\n    return {user!r}\n"


def read_again(proxy: MoesifProxy, count: int = 1) -> str:
    proxy.send_signal(signal.SIGHUP)
    return proxy.wait_for_output("read again", count=count)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_file_of_hooks_is_in_force(
    workers: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text(HOOKS.format(user="before"))
    proxy = moesif_proxy(upstream.url, addon_options(collector, hooks=str(hooks)), workers=workers)
    exchange(proxy.port)
    hooks.write_text(HOOKS.format(user="after"))
    (first,) = collector.wait_for(1)
    assert first["user_id"] == "before"
    read_again(proxy)
    asked = 0
    while True:  # another worker may be a moment later
        exchange(proxy.port)
        asked += 1
        users = [event["user_id"] for event in collector.wait_for(1 + asked)]
        if users.count("after") >= 5:
            break
        assert asked < 200, users


def test_a_broken_file_refuses_the_whole_reload(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    hooks, config = tmp_path / "hooks.py", tmp_path / "config.yaml"
    hooks.write_text(HOOKS.format(user="kept"))
    config.write_text("moesif_api_version: first\n")
    options = addon_options(collector, hooks=str(hooks))
    proxy = moesif_proxy(upstream.url, options, "--config", str(config))
    hooks.write_text("def identify_user(:\n")
    config.write_text("moesif_api_version: second\n")
    for count in (1, 2):
        proxy.send_signal(signal.SIGHUP)
        output = proxy.wait_for_output("the configuration was refused, the old one stays: ", count=count)
        *_, refusal = (line for line in output.splitlines() if "the configuration was refused" in line)
        assert "hooks" in refusal
    assert "Traceback" not in output
    exchange(proxy.port)
    (event,) = collector.wait_for(1)
    assert (event["user_id"], event["request"]["api_version"]) == ("kept", "first")
    hooks.write_text(HOOKS.format(user="mended"))
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("the configuration was read again: moesif_api_version changed")
    exchange(proxy.port)
    event = collector.wait_for(2)[1]
    assert (event["user_id"], event["request"]["api_version"]) == ("mended", "second")


def test_why_a_file_of_options_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}: Is a directory$"):
        read(tmp_path)
    (tmp_path / "x").write_bytes(b"a: \xff")
    with pytest.raises(ConfigurationError, match=r"x: is not UTF-8$"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("http2: maybe", "http2: must be true or false"),
        (
            "ssl_verify_upstream_trusted_ca: [s3cret]",
            "ssl_verify_upstream_trusted_ca: must be text (a number needs quotes)",
        ),
        ("ignore_hosts: s3cret", "ignore_hosts: must be a list of texts"),
    ],
)
def test_a_value_of_another_type_is_told_with_what_it_must_be_and_where(given: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{given}\n")
    arguments = parse(["--upstream", "http://kong:8000", "--config", str(file)])
    with pytest.raises(ConfigurationError) as refused:
        Configuration(Options(), arguments).start()
    assert str(refused.value) == f"{said} in {file}"


def test_every_type_of_an_option_has_words() -> None:
    assert {option.typespec for option in Options()._options.values()} <= set(KINDS)


def test_addons_hear_of_options_that_name_files(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The JWT gate reads its keys again when an option of its own is told to it."""
    heard = tmp_path / "heard.txt"
    script = tmp_path / "hears.py"
    script.write_text(f"def configure(updated): open({str(heard)!r}, 'a').write(' '.join(sorted(updated)) + '\\n')\n")
    keys = tmp_path / "keys.json"
    write_jwks(keys, jwk(rsa_key()))
    options = {**addon_options(collector), "jwt_gate": True, "jwt_jwks": str(keys)}
    proxy = moesif_proxy(upstream.url, options, "-s", str(script))
    read_again(proxy)
    assert heard.read_text().splitlines()[-1] == "jwt_jwks"


def test_without_a_file_there_is_nothing_to_read_again(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    said = "the files that options name were read again (there is no --config)\n"
    assert said in read_again(proxy)
    assert "the configuration was" not in read_again(proxy, count=2)
    exchange(proxy.port)
    collector.wait_for(1)
    assert proxy.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_hangups_while_the_proxy_ends_do_not_end_it_otherwise(
    workers: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=workers)
    exchange(proxy.port)
    everyone = [proxy.pid, *(proxy.workers() if workers > 1 else [])]
    proxy.send_signal(signal.SIGTERM)
    pausing = threading.Event()
    while proxy.process.poll() is None:
        for pid in everyone:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        pausing.wait(0.001)  # leaves it time to end
    assert proxy.wait_exit() == 0
    assert exit_counts(proxy.output)["delivered"] == 1
    assert "SIGHUP" not in proxy.output


def test_hangups_while_a_worker_starts_wait_until_it_has(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    one, other = proxy.workers()
    os.kill(one, signal.SIGKILL)
    (successor,) = wait_for_workers(proxy, 1, without={one, other})
    pausing = threading.Event()
    while "read again" not in proxy.output:
        os.kill(successor, signal.SIGHUP)
        pausing.wait(0.001)  # leaves it time to start
    assert successor in proxy.workers()
    assert "SIGHUP" not in proxy.output
    assert proxy.stop() == 0

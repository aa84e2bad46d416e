"""The benchmark's parts do what its figures rest on. Nothing here asserts how fast anything is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.config.settings import Settings, parse_settings
from tests.bench import __main__ as command
from tests.bench import load, parts, plot, proc, report, variants
from tests.bench.children import REPOSITORY, BenchError, Child, python
from tests.bench.claims import claims
from tests.bench.client import Task, arrivals, carry_out, content_length
from tests.bench.load import Load, Request, document
from tests.bench.proxy import Account, Proxy, read_account
from tests.bench.results import PAINTED, SHOWN_LATEST, Comparison, Memory, Results
from tests.bench.services import SIZES, Services
from tests.bench.stats import PERCENTILES, Spread, difference, percentile, ratio
from tests.bench.streams import Transfer
from tests.bench.turns import Sample, Turns, take_turns
from tests.bench.variants import BARE, FULL, Variant
from tests.support.ports import free_port
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

# --- figures


def test_ratios_and_differences_are_taken_round_by_round() -> None:
    assert ratio([10, 40, 90], [10, 20, 30]) == Spread(2.0, 1.0, 3.0)
    assert difference([10, 40, 90], [10, 20, 30]) == Spread(20, 0, 60)


def test_a_ratio_of_different_numbers_of_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [percentile(values, quantile) for quantile in (0, 50, 99, 100)] == [1, 51, 100, 100]
    assert percentile([], 50) == 0


# --- what is sent


@pytest.mark.parametrize("size", [100, *SIZES])
def test_documents_are_json_of_exactly_their_size(size: int) -> None:
    assert len(document(size)) == size
    assert isinstance(json.loads(document(size)), dict)


def test_the_largest_document_is_captured_whole() -> None:
    assert max(SIZES) <= parse_settings({}).response_max_body_size_limit


def test_documents_hold_what_the_masks_mask() -> None:
    assert b'"password"' in document(1_000)
    assert "password" in variants.MASKS["moesif_response_body_masks"]


def test_a_request_that_brings_a_body_says_its_length() -> None:
    request = Request(1_000, both=True)
    assert request.head.startswith("POST /1000.json?")
    assert content_length(request.head.encode()) == len(request.body) == 1_000
    assert Request(1_000).head.startswith("GET ")
    assert Request(1_000).body == ""


def test_wrk_is_told_the_same_request() -> None:
    script = load.wrk_script(Request(200, both=True))
    assert 'wrk.method = "POST"' in script
    assert 'wrk.path = "/200.json?page=2&q=shoes"' in script
    assert f"wrk.body = {json.dumps(document(200).decode())}" in script
    assert all(f'wrk.headers["{name}"]' in script for name in load.HEADERS)


def test_arrivals_are_the_same_for_the_same_seed_and_come_at_the_rate() -> None:
    times = list(arrivals(500, 10, seed=3))
    assert times == list(arrivals(500, 10, seed=3)) != list(arrivals(500, 10, seed=4))
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 10
    assert len(times) == pytest.approx(5_000, rel=0.1)


# --- the client


def _task(upstream: ScriptedUpstream, **fields: Any) -> Task:
    return Task(upstream.port, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", **fields)


def test_the_open_loop_sends_every_request_that_is_due(upstream: ScriptedUpstream) -> None:
    outcome = carry_out(_task(upstream, connections=2, seconds=0.5, rate=100, seed=1))
    due = len(list(arrivals(100, 0.5, seed=1)))
    assert (outcome.requests, outcome.errors) == (due, 0)
    assert len(outcome.latencies) == len(upstream.requests()) == due


def test_the_open_loop_counts_the_time_that_requests_wait_for_a_slow_one(upstream: ScriptedUpstream) -> None:
    stall, seen = 0.3, threading.Event()

    def stall_once(request: RawRequest, connection: Connection) -> None:
        if not seen.is_set():
            seen.set()
            connection.pause(stall)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.handler = stall_once
    outcome = carry_out(_task(upstream, connections=1, seconds=0.5, rate=200, seed=1))
    first, *later = arrivals(200, 0.5, seed=1)
    waited = [1000 * (first + stall - due) for due in later if due < first + stall]
    assert sum(latency >= min(waited) for latency in outcome.latencies) >= len(waited)
    assert max(outcome.latencies) >= 1000 * stall


def test_the_closed_loop_waits_for_what_is_under_way(upstream: ScriptedUpstream) -> None:
    outcome = carry_out(_task(upstream, connections=3, seconds=0.3))
    assert outcome.requests == len(upstream.requests()) > 3
    assert outcome.errors == 0


def test_the_client_counts_failures_and_goes_on(upstream: ScriptedUpstream) -> None:
    def refuse_every_third(request: RawRequest, connection: Connection) -> None:
        match len(upstream.requests()) % 3:
            case 0:
                connection.reset()
            case 1:
                connection.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            case _:
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    upstream.handler = refuse_every_third
    outcome = carry_out(_task(upstream, connections=1, seconds=0.5, rate=100, seed=2))
    due = len(list(arrivals(100, 0.5, seed=2)))
    assert outcome.requests + outcome.errors == due
    assert outcome.requests == len(outcome.latencies) == pytest.approx(due / 3, abs=2)


# --- processes


def test_cpu_time_is_that_of_all_threads_and_of_the_main_one() -> None:
    before, before_loop = proc.cpu_seconds(os.getpid()), proc.loop_seconds(os.getpid())
    worker = threading.Thread(target=lambda: sum(range(3_000_000)))
    worker.start()
    worker.join()
    spent, in_loop = proc.cpu_seconds(os.getpid()) - before, proc.loop_seconds(os.getpid()) - before_loop
    assert spent > in_loop >= 0


def test_children_count_as_the_same_family(tmp_path: Path) -> None:
    with Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path) as child:
        assert child.pid in proc.family(os.getpid())
        assert proc.resident_bytes(os.getpid()) > proc.resident_bytes(child.pid)
    assert child.pid not in proc.family(os.getpid())


def test_a_child_that_does_not_start_is_told_in_one_line(tmp_path: Path) -> None:
    with (
        Child("broken", [sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path) as child,
        pytest.raises(BenchError, match=r"^broken ended with 1: no such thing$"),
    ):
        child.wait_for_port(free_port())


def test_the_collector_counts_by_application(tmp_path: Path) -> None:
    port = free_port()
    with Child("collector", python("collector", str(port)), tmp_path) as child:
        child.wait_for_port(port)
        batch = json.dumps([{"transaction_id": str(number)} for number in range(7)], separators=(",", ":")).encode()
        for name in ("a", "a", "b"):
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/events/batch", batch, {"X-Moesif-Application-Id": name}
            )
            assert urllib.request.urlopen(asked, timeout=10).status == 201
        counts = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/counts", timeout=10))
    assert counts == {"a": 14, "b": 7}


# --- taking turns


class FakeProxy:
    """Remembers the order of what happens, in place of a process."""

    def __init__(self, variant: Variant, log: list[str]) -> None:
        self.variant = variant
        self.pid = os.getpid()
        self._log = log
        log.append(f"start {variant.name}")

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(self, *_error: object) -> None:
        self._log.append(f"end {self.variant.name}")

    def settle(self) -> float:
        return 0.0

    def stop(self) -> None:
        return None


def test_each_round_starts_anew_and_goes_there_and_back() -> None:
    log: list[str] = []

    def loaded(proxy: Any, *, number: int) -> Load:
        log.append(f"{number} {proxy.variant.name}")
        return Load(10, 0, 1.0, dict.fromkeys(PERCENTILES, 2.0))

    turns = take_turns([BARE, FULL], 2, lambda variant: FakeProxy(variant, log), lambda proxy: None, loaded)  # type: ignore[arg-type, return-value]
    assert [entry for entry in log if entry[0] in "01"] == [
        *("0 bare", "0 full", "0 full", "0 bare"),
        *("1 full", "1 bare", "1 bare", "1 full"),
    ]
    assert log.count("start full") == log.count("end full") == 2
    assert [sample.requests for sample in turns.samples["full"]] == [20, 20]


# --- the account


def _account(**fields: int) -> Account:
    whole = {"sent": 10, "cut": 2, "captured": 11, "delivered": 9, "waiting": 1, "dropped": 1, "counted": 9, **fields}
    return Account(variant="full", causes="", **whole)


def test_the_exit_line_is_read_with_its_causes() -> None:
    output = "moesif: captured 1, delivered 1, waiting 0, dropped 0\nx\nmoesif: captured 12, delivered 9, waiting 1, "
    account = read_account(f"{output}dropped 2 (shutdown 2)\n", "full", sent=12, cut=0, counted=9)
    assert (account.captured, account.delivered, account.waiting, account.dropped) == (12, 9, 1, 2)
    assert account.causes == "shutdown 2"
    assert account.holds


def test_a_proxy_without_an_exit_line_is_an_error() -> None:
    with pytest.raises(BenchError, match="no exit line; the last it wrote: so long"):
        read_account("hello\nso long\n", "full", 1, 0, 1)


@pytest.mark.parametrize(
    "fault", [{"captured": 12}, {"sent": 12}, {"sent": 8}, {"counted": 8}, {"delivered": 10}, {"dropped": 0}]
)
def test_an_account_that_does_not_add_up_is_seen(fault: dict[str, int]) -> None:
    assert _account().holds
    assert not _account(**fault).holds
    assert "NOT ACCOUNTED FOR" in _account(**fault).text()


# --- variants


def test_a_variant_that_is_not_there_yet_is_left_out() -> None:
    later = Variant("later", "with what comes later", needs="no_such_parameter")
    assert variants.there([BARE, later, FULL]) == [BARE, FULL]
    assert variants.missing(later) == "there is no moesif_no_such_parameter"


def test_variants_name_parameters_that_exist() -> None:
    every = [value for value in vars(variants).values() if isinstance(value, Variant)]
    assert len({variant.name for variant in every}) == len(every)
    given = {name for variant in variants.there(every) for name in variant.options if name.startswith("moesif_")}
    assert {name.removeprefix("moesif_") for name in given} <= Settings.model_fields.keys()


# --- what is told


def _sample(rate: float, cpu_us: float) -> Sample:
    requests = int(rate)
    return Sample(requests, 0, 1.0, cpu_us * requests / 1e6, 0.0, 0.0, {50: 1.0, 95: 2.0, 99: 3.0}, 0.0)


@pytest.fixture
def results() -> Results:
    turns = Turns(
        {
            "bare": [_sample(100, 1000), _sample(200, 1000), _sample(100, 1000)],
            "off": [_sample(100, 1010), _sample(200, 1020), _sample(100, 1030)],
            "full": [_sample(150, 1100), _sample(280, 1100), _sample(130, 1100)],
        },
        [_account()],
    )
    titles = {"bare": "mitmdump", "off": "capture off", "full": "full <capture>"}
    found = Results({"date": "today", "cpu": "one", "kernel": "L", "python": "3", "mitmproxy": "12"}, 3, 4)
    found.machine |= {"addon": "0", "upstream": "nginx", "load": "wrk", "busy": "idle"}
    found.comparisons["throughput"] = Comparison("1 KB", titles, 8, None, turns)
    found.comparisons["latency"] = Comparison("1 KB open", titles, 32, 50.0, turns)
    found.first_bytes = {"bare-stream": [1.0, 2.0, 3.0], "full": [1.5, 2.0, 3.0]}
    found.transfers = {"upload": {name: [Transfer(10**9, 2.0, 10**6)] * 3 for name in ("bare-stream", "full")}}
    found.memory = Memory([(20_000, 100_000_000), (200_000, 120_000_000)])
    found.parts = [
        parts.Part("a lookup among 10 routes", 2.0, 1.0),
        parts.Part("a lookup among 1,000 routes", 4.0, 1.0),
    ]
    found.accounts = turns.accounts
    found.note("left out: something")
    return found


def test_goals_are_held_against_the_median_of_the_rounds(results: Results) -> None:
    told = {claim.text: claim for claim in claims(results)}
    throughput = told["throughput with the addon, full capture / mitmdump without any addon"]
    assert throughput.measured == Spread(1.4, 1.3, 1.5)
    assert throughput.reached
    cpu = told["CPU of capture for an exchange of 1 KB, microseconds"]
    assert cpu.measured.median == pytest.approx(80)
    assert not cpu.reached
    lookup = told["route lookup among 1,000 / among 10"]
    assert lookup.measured.median == 2.0
    assert lookup.reached
    assert told["added p50 of capture at half load, ms"].measured == Spread(0, 0, 0)
    assert not told["growth of memory over 200,000 exchanges, MB"].reached


def test_the_report_has_every_table_and_says_what_was_left_out(results: Results) -> None:
    told = report.markdown(results)
    for heading in ("Goals", "1 KB", "1 KB open", "Time to the first byte", "Large bodies", "The addon's parts"):
        assert f"### {heading}" in told
    assert "1.40 [1.30 - 1.50]" in told
    assert "in all of them" in told
    assert "- left out: something" in told
    tables = [line for line in told.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_what_the_user_of_the_traffic_page_waits_for_is_told_and_held_against_its_goals(results: Results) -> None:
    results.page = {PAINTED: [300.0, 2100.0, 400.0], SHOWN_LATEST: [501.0, 502.0, 400.0]}
    results.parts.append(parts.Part("keeping an exchange for who looks (1 KB)", 2.5, 2.0))
    samples = {"admin": [_sample(100, 500)] * 3, "page": [_sample(96, 510)] * 3}
    titles = {"admin": "listening", "page": "watched"}
    results.comparisons["page"] = Comparison("watched", titles, 8, None, Turns(samples))
    reached = {claim.text: claim.reached for claim in claims(results)}
    assert reached[f"{PAINTED}, ms"]
    assert not reached[f"{SHOWN_LATEST}, ms"]
    assert reached["throughput while the traffic page follows / without it"]
    assert reached["CPU of keeping an exchange for who looks, microseconds"]
    assert "### The traffic page" in report.markdown(results)
    assert f"| {PAINTED}" in report.markdown(results)


def test_the_report_says_which_account_does_not_hold(results: Results) -> None:
    results.accounts = [_account(), _account(sent=12)]
    assert "all but 1" in report.markdown(results)
    assert "NOT ACCOUNTED FOR" in report.markdown(results)


def test_the_results_are_json_with_each_round(results: Results) -> None:
    told = json.loads(json.dumps(report.as_json(results)))
    rounds = told["comparisons"]["throughput"]["variants"]["full"]["rounds"]
    assert [sample["requests"] for sample in rounds] == [150, 280, 130]
    assert told["accounts"][0]["holds"] is True
    assert {claim["text"] for claim in told["claims"]} == {claim.text for claim in claims(results)}


def test_the_picture_is_well_formed_and_names_every_variant(results: Results) -> None:
    root = ET.fromstring(plot.svg(results))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts.count("full <capture>") == 4
    widths = [float(element.get("width", "")) for element in root.iter() if element.tag.endswith("rect")]
    assert max(widths) <= plot.WIDTH


def test_a_picture_of_nothing_is_well_formed(results: Results) -> None:
    results.comparisons.clear()
    ET.fromstring(plot.svg(results))


# --- the whole


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Without wrk and nginx, as on a machine that has neither."""
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    with Services(tmp_path) as services:
        yield services


def test_a_capturing_proxy_is_measured_and_accounts_for_everything(services: Services, tmp_path: Path) -> None:
    with Proxy(FULL, services, tmp_path) as proxy:
        closed = proxy.saturate(Request(1_000, both=True), 4, 1)
        opened = proxy.at_rate(Request(1_000), 4, 0.5, 40, seed=1)
        proxy.settle()
        cpu, loop = proc.cpu_seconds(proxy.pid), proc.loop_seconds(proxy.pid)
        account = proxy.stop()
    assert closed.errors == opened.errors == 0
    assert cpu > loop > 0
    assert account is not None
    assert account.holds, account.text()
    assert account.captured == account.delivered == closed.requests + opened.requests > 0


def test_a_proxy_without_the_addon_has_no_account(services: Services, tmp_path: Path) -> None:
    with Proxy(BARE, services, tmp_path) as proxy:
        assert proxy.at_rate(Request(200), 1, 0.2, 50, seed=1).errors == 0
        assert proxy.stop() is None


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-m", "tests.bench", "--only", "streams", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    # The upstreams, the collector and the first of the proxies.
    while len(family := proc.family(bench.pid)) < 5:
        assert bench.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    bench.send_signal(signal.SIGINT)
    _, told = bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert told.endswith("bench: interrupted\n")
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


def test_what_is_missing_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "BIN", Path("/nowhere"))
    assert command.main(["--only", "parts"]) == 1
    assert capsys.readouterr().err == "bench: mitmdump is not in /nowhere: run `make install` first\n"


def test_what_was_measured_is_told_although_the_rest_failed(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_halfway(_options: object, measured: Results) -> None:
        measured.machine |= results.machine
        measured.comparisons |= results.comparisons
        raise BenchError("full ended with 1")

    monkeypatch.setattr(command, "run", fail_halfway)
    assert command.main(["--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.err == "bench: full ended with 1\n"
    assert "### 1 KB" in told.out
    assert json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert ET.parse(tmp_path / "results.svg")


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "x"], ["--only", "everything"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err

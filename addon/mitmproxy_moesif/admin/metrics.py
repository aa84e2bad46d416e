"""The status as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mitmproxy_moesif.admin.source import ReceiverStatus, Status
from mitmproxy_moesif.capture.traffic import Durations, TrafficStatus

CAUSES = (
    "queue_full",
    "queue_bytes",
    "spool_full",
    "refused",
    "too_old",
    "spool_damaged",
    "sampled_out",
    "skipped",
    "mask_failed",
    "kong_unknown",
    "internal_error",
    "discarded",
    "not_an_event",
    "helper_died",
    "worker_died",
    "shutdown",
)
"""Causes of dropped events; each is shown from the first scrape."""

RECORD_CAUSES = (
    *("in_flight", "unavailable", "refused", "unauthorized"),
    *("queue_full", "queue_bytes", "sampled_out", "skipped", "mask_failed", "too_old", "internal_error"),
    *("shutdown", "helper_died", "worker_died"),
)
"""Causes of records that a lossy receiver did not get; each is shown from the first scrape."""

FAULTS = (
    *("requestheaders", "request", "responseheaders", "response", "error", "websocket_start", "websocket_end"),
    *("tcp_start", "client_disconnected", "sweep", "governance"),
    *("hook skip", "hook identify_user", "hook identify_company", "hook session_token", "hook metadata", "hook mask"),
    *("helper", "writing", "handing over", "order", "report", "recent exchanges"),
    *("build", "builder", "sender", "keeper", "akto record", "lossy"),
)
"""Kinds of faults; each is shown from the first scrape."""

UNSENT = "Waiting events that are not sent until an operator decides about them."
UNSENT_STATES = ("not configured", "quarantined")

UP = "1: it accepts events; absent until an event was sent to it or a request for its configuration failed."

_TOTALS = {
    "captured": ("moesif_events_captured", "Events captured, including those found on disk at startup."),
    "recovered": ("moesif_events_recovered", "Captured events that an earlier process left on disk."),
    "delivered": ("moesif_events_delivered", "Events that the receiver accepted."),
    "excluded": ("moesif_exchanges_excluded", "Exchanges that were not captured, as configured."),
}
_GAUGES = {
    "uptime": ("moesif_uptime_seconds", "Seconds since the addon started."),
    "oldest_waiting": ("moesif_oldest_waiting_seconds", "Age of the oldest waiting event; 0 if none waits."),
}


def exposition(status: Status, accept: str = "") -> tuple[bytes, str]:
    """Text and Content-Type: Prometheus' own format, or OpenMetrics if `accept` requests it."""
    registry = CollectorRegistry(auto_describe=False)  # not the process's default one, which others may use
    registry.register(_StatusCollector(status))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _StatusCollector(Collector):
    """One reading of the status; missing parts have no metrics."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from self._numbers()
        yield from self._by_label()
        yield from self._receivers()
        yield from self._spool()
        if "traffic" in self._status:
            yield from _traffic(self._status["traffic"])
        yield from self._workers()
        if "version" in self._status:
            yield InfoMetricFamily("moesif_build", "Version of the addon.", {"version": self._status["version"]})

    def _numbers(self) -> Iterator[Metric]:
        values: Mapping[str, object] = self._status
        for key, (name, text) in _TOTALS.items():
            if isinstance(value := values.get(key), int):
                yield CounterMetricFamily(name, text, value)
        if "excluded" in values:
            text = "Deprecated name of moesif_exchanges_excluded_total."
            yield CounterMetricFamily("moesif_exchanges_skipped", text, self._status["excluded"])
        for key, (name, text) in _GAUGES.items():
            if key in values:
                value = values[key]
                yield GaugeMetricFamily(name, text, value if isinstance(value, int | float) else 0)

    def _by_label(self) -> Iterator[Metric]:
        status = self._status
        if "waiting" in status:
            waiting = GaugeMetricFamily("moesif_events_waiting", "Waiting events, by location.", labels=["where"])
            waiting.add_metric(["memory"], status["waiting"]["memory"])
            waiting.add_metric(["disk"], status["waiting"]["disk"])
            yield waiting
        if "unsent" in status:
            unsent = GaugeMetricFamily("moesif_events_unsent", UNSENT, labels=["state"])
            for state in UNSENT_STATES:
                unsent.add_metric(
                    [state], sum(one["events"] for one in status["unsent"].values() if one["state"] == state)
                )
            yield unsent
        if "dropped" in status:
            text = "Dropped events, by cause."
            yield _counter("moesif_events_dropped", text, "cause", dict.fromkeys(CAUSES, 0) | dict(status["dropped"]))
        if "engines" in status:
            text = "Exchanges started in the running processes, by engine."
            yield _counter("moesif_exchanges", text, "engine", status["engines"])
        if "faults" in status:
            text = "Errors in the addon itself, by kind; traffic was not affected."
            yield _counter("moesif_faults", text, "kind", dict.fromkeys(FAULTS, 0) | dict(status["faults"]))

    def _receivers(self) -> Iterator[Metric]:
        if "destinations" in self._status:
            up = GaugeMetricFamily("moesif_receiver_up", UP, labels=["destination"])
            for destination, how in self._status["destinations"].items():
                if (state := how.get("state")) != "unknown":
                    up.add_metric([destination], state == "up")
            yield up
        yield from self._lossy(self._status.get("receivers", {}))

    def _lossy(self, receivers: Mapping[str, ReceiverStatus]) -> Iterator[Metric]:
        """Metrics of receivers that may lose records."""
        if not receivers:
            return
        captured = CounterMetricFamily(
            "moesif_records_captured", "Records captured for a lossy receiver.", labels=["receiver"]
        )
        delivered = CounterMetricFamily(
            "moesif_records_delivered", "Records that the receiver accepted.", labels=["receiver"]
        )
        waiting = GaugeMetricFamily("moesif_records_waiting", "Records waiting for the receiver.", labels=["receiver"])
        labels = ["receiver", "cause"]
        dropped = CounterMetricFamily(
            "moesif_records_dropped", "Records that the receiver did not get, by cause.", labels=labels
        )
        for name, counts in receivers.items():
            captured.add_metric([name], counts["captured"])
            delivered.add_metric([name], counts["delivered"])
            waiting.add_metric([name], counts["waiting"])
            for cause, count in sorted((dict.fromkeys(RECORD_CAUSES, 0) | dict(counts["dropped"])).items()):
                dropped.add_metric([name, cause], count)
        yield from (captured, delivered, waiting, dropped)

    def _spool(self) -> Iterator[Metric]:
        spool = self._status.get("spool", {})
        if (state := spool.get("state", "off")) != "off":
            yield GaugeMetricFamily(
                "moesif_spool_up", "1: the disk accepts events; 0: they stay in memory.", state == "on"
            )
        if "bytes" in spool:
            yield GaugeMetricFamily("moesif_spool_bytes", "Size of the spool on disk in bytes.", spool["bytes"])
        if "max_bytes" in spool:
            yield GaugeMetricFamily("moesif_spool_max_bytes", "Maximum size of the spool in bytes.", spool["max_bytes"])

    def _workers(self) -> Iterator[Metric]:
        workers = self._status.get("workers")
        if workers is not None:
            gauge = GaugeMetricFamily("moesif_workers", "Number of workers: ready, and wanted.", labels=["state"])
            gauge.add_metric(["ready"], workers["ready"])
            gauge.add_metric(["wanted"], workers["wanted"])
            yield gauge
            text = "Workers restarted after they died."
            yield CounterMetricFamily("moesif_worker_restarts", text, workers["restarts"])


def _traffic(traffic: TrafficStatus) -> Iterator[Metric]:
    text = "Finished requests, captured or not, by instance and status class."
    requests = CounterMetricFamily("moesif_requests", text, labels=["moesif_instance", "status"])
    for instance, counts in sorted(traffic["requests"].items()):
        for status, count in counts.items():
            requests.add_metric([instance, status], count)
    yield requests
    yield CounterMetricFamily("moesif_requests_blocked", "Requests blocked by a rule.", traffic["blocked"])
    text = "Requests that failed at the upstream, by reason."
    yield _counter("moesif_upstream_failures", text, "trouble", traffic["upstream_failures"])
    text = "Seconds from a request's first byte to the end of its response."
    yield _histogram("moesif_request_seconds", text, traffic["seconds"])
    text = "Seconds that each step of an exchange waits for the proxy, measured every 0.1 s."
    yield _histogram("moesif_added_latency_seconds", text, traffic["added"])


def _histogram(name: str, text: str, told: Durations) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=[*told["buckets"].items()], sum_value=told["sum"])


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family

"""What Prometheus gets: the operator's own numbers, and those of every run as its status tells them.

The only importer of prometheus_client here. Run metrics are made from the store when they are asked for, so a deleted
run's are gone with it. Labels are bounded: namespace, run, set, role, condition; never a step, an attempt or a pod.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rewarm_operator.run_metrics import FAMILIES, samples
from rewarm_operator.server_time import SERVER

Json = dict[str, Any]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Sources:
    """Where the numbers are when they are asked for. Every call returns at once."""

    depth: Callable[[], int]
    leading: Callable[[], bool]
    requests: Callable[[], Mapping[tuple[str, str], int]]
    runs: Callable[[], list[Json]]
    heartbeats: Callable[[], Mapping[str, datetime]] = field(default=dict)
    """By the uid of the run."""


class Metrics:
    """`text` is what a scrape gets; safe from any thread, one at a time."""

    def __init__(self, sources: Sources) -> None:
        # One more series for every result, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._visits = Histogram(
            "rewarm_operator_reconcile_seconds",
            "How long visits to runs and studies took, by how they ended.",
            ["result"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Collector(sources))

    def took(self, result: str, seconds: float) -> None:
        """A visit ended."""
        self._visits.labels(result).observe(seconds)

    def text(self) -> bytes:
        with self._lock:
            return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Nothing is read when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield GaugeMetricFamily("rewarm_operator_queue_depth", "Runs that wait for a visit.", sources.depth())
        yield GaugeMetricFamily("rewarm_operator_leader", "1 in the active operator.", float(sources.leading()))
        requests = CounterMetricFamily(
            "rewarm_operator_api_requests",
            "Requests to the API server, by verb and by the code of the answer (error: there was none).",
            labels=["verb", "code"],
        )
        for (verb, code), count in sorted(sources.requests().items()):
            requests.add_metric([verb, code], count)
        yield requests
        runs = sources.runs()
        yield _by_condition(runs)
        # A standby would tell the same numbers a second time.
        yield from self._of_runs(runs if sources.leading() else [])

    def _of_runs(self, runs: list[Json]) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, family in FAMILIES.items():
            made = CounterMetricFamily if family.counter else GaugeMetricFamily
            families[name] = made(name, family.help, labels=["namespace", "run", *family.labels])
        now = SERVER.now()
        heartbeats = self._sources.heartbeats()
        for run in runs:
            metadata = run["metadata"]
            where = [metadata["namespace"], metadata["name"]]
            for name, labels, value in samples(run, heartbeats.get(metadata["uid"]), now):
                families[name].add_metric([*where, *labels], value)  # type: ignore[attr-defined]
        yield from families.values()


def _by_condition(runs: list[Json]) -> Metric:
    counts: Counter[tuple[str, str]] = Counter()
    for run in runs:
        for condition in (run.get("status") or {}).get("conditions") or ():
            counts[str(condition.get("type")), str(condition.get("status"))] += 1
    family = GaugeMetricFamily("rewarm_operator_runs", "Runs, by condition.", labels=["condition", "status"])
    for (kind, status), count in sorted(counts.items()):
        family.add_metric([kind, status], count)
    return family

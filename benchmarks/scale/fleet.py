"""From unit costs to a fleet's load. Pure: every number here is a product of a measured unit and an assumed size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Units:
    """What one of each costs; `benchmarks/scale/units.py` and docs/operator.md measure them."""

    heartbeat_bytes: int
    object_bytes: int
    heartbeat_seconds: float
    review_seconds: float
    status_seconds: float
    writes_until_job: float
    start_cpu_seconds: float
    pod_event_cpu_seconds: float
    operator_megabytes_a_run: float
    run_series: int
    process_series: int
    metrics_a_log_step: float
    mlflow_batches_a_second: float
    prometheus_bytes_a_series: float
    requests_a_commit: float
    requests_a_start: float
    part_bytes: int


@dataclass(frozen=True)
class Fleet:
    """The simulated fleet. All of it trains; a run ends and another starts after `run_hours`."""

    nodes: int = 10_000
    nodes_a_run: int = 8
    run_hours: float = 24.0
    checkpoint_minutes: float = 30.0
    parameters: float = 1e9
    log_seconds: float = 10.0
    scrape_seconds: float = 30.0
    watchers: int = 2
    """Who watches runs: the operator, and one person or dashboard."""
    pod_events: float = 4.0
    """Changes of a pod that the operator is told of, from made to ended."""

    @property
    def runs(self) -> int:
        return max(1, self.nodes // self.nodes_a_run)


@dataclass(frozen=True)
class Load:
    """What the fleet asks for, in a second, and what stands."""

    runs: int
    heartbeats: float
    reviews: float
    status_writes: float
    start_writes: float
    watch_bytes: float
    operator_cores: float
    operator_megabytes: float
    mlflow_batches: float
    mlflow_metrics: float
    series: float
    series_bytes: float
    samples: float
    s3_requests: float

    @property
    def writes(self) -> float:
        """API-server writes a second, token reviews included: they are POSTs too."""
        return self.reviews + self.status_writes + self.start_writes


def load_of(units: Units, fleet: Fleet) -> Load:
    """Steady training, with starts spread evenly. The heartbeat paces the status: it is never written oftener."""
    runs = fleet.runs
    starts = runs / (fleet.run_hours * 3600)
    heartbeats = runs / units.heartbeat_seconds
    status = runs / max(units.status_seconds, units.heartbeat_seconds)
    pods = starts * fleet.nodes_a_run
    # Weights and two moments in FP32, in parts of large files; what is small is in the counted requests.
    parts = 12 * fleet.parameters / units.part_bytes
    series = runs * (units.run_series + (fleet.nodes_a_run - 1) * units.process_series)
    return Load(
        runs=runs,
        heartbeats=heartbeats,
        reviews=runs / max(units.review_seconds, units.heartbeat_seconds),
        status_writes=status,
        start_writes=starts * units.writes_until_job,
        watch_bytes=status * units.object_bytes * fleet.watchers,
        operator_cores=starts * units.start_cpu_seconds
        + pods * fleet.pod_events * units.pod_event_cpu_seconds
        # A heartbeat ends in one status write: counted as dear as a pod event, which ends in one too.
        + heartbeats * units.pod_event_cpu_seconds,
        operator_megabytes=runs * units.operator_megabytes_a_run,
        mlflow_batches=runs / fleet.log_seconds,
        mlflow_metrics=runs * units.metrics_a_log_step / fleet.log_seconds,
        series=series,
        series_bytes=series * units.prometheus_bytes_a_series,
        samples=series / fleet.scrape_seconds,
        s3_requests=runs * (units.requests_a_commit + parts) / (60 * fleet.checkpoint_minutes)
        # Every pod finds the newest checkpoint and fetches all of it into a folder of its own.
        + pods * (units.requests_a_start + parts),
    )


def shards(load: float, limit: float) -> int:
    """How many of something that carries `limit` each are needed for `load`; ValueError for a limit of nothing."""
    if limit <= 0:
        raise ValueError(f"a limit of {limit}")
    return max(1, -int(-load // limit))

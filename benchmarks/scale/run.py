"""Write docs/scale.md: a simulated fleet on paper, from units measured now: `python benchmarks/scale/run.py [--write]`.

Takes about three minutes, and needs Prometheus (`make cluster-tools`). The
operator's costs are those that stand in docs/operator.md (benchmarks/operator/run.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

# `scale` is a package beside `rewarm_bench`; this folder itself must not be searched.
_ROOT = Path(__file__).resolve().parents[2]
sys.path[0:1] = [str(_ROOT / part) for part in ("benchmarks", "tools/cluster", "api", "trainer", "operator", "cli")]

from rewarm_bench.pages import replace_in, table  # noqa: E402
from rewarm_bench.product import ROOT  # noqa: E402
from scale.fleet import Fleet, Load, Units, load_of, shards  # noqa: E402

MARKS = "<!-- scale:begin -->", "<!-- scale:end -->"
SIZES = (1, 8, 64)
SERVER_BYTES = 16e9

WORDS: dict[str, tuple[str, str]] = {
    "heartbeat_bytes": ("bytes of a heartbeat", "a report of two sets, as rank 0 sends it"),
    "object_bytes": ("bytes of a run as watchers get it", "a list of stored runs, docs/operator.md"),
    "heartbeat_seconds": ("seconds between heartbeats of a run", "reporter.py"),
    "review_seconds": ("seconds that a reviewed token is believed", "progress.py"),
    "status_seconds": ("seconds between status writes of a run, at least", "the operator's settings"),
    "writes_until_job": ("writes of a start, Events included", "docs/operator.md"),
    "start_cpu_seconds": ("operator CPU seconds of a start", "docs/operator.md"),
    "pod_event_cpu_seconds": ("operator CPU seconds of a pod event", "docs/operator.md"),
    "operator_megabytes_a_run": ("operator memory of a stored run, MB", "docs/operator.md"),
    "run_series": ("Prometheus series of a run's first process", "counted from the exporter, two sets"),
    "process_series": ("series of each other node", "counted from the exporter"),
    "metrics_a_log_step": ("MLflow metrics of a log step, looks included", "rows of a real run's database"),
    "mlflow_batches_a_second": (
        "such batches a second that MLflow takes",
        "a server of one worker over SQLite, four runs at once",
    ),
    "prometheus_bytes_a_series": ("bytes of memory of a series", "a Prometheus that scrapes 20, then 1,000 runs"),
    "requests_a_commit": ("S3 requests of a commit of small files, pruning included", "counted at an S3 server"),
    "requests_a_start": ("S3 requests of finding and fetching the newest", "counted at an S3 server"),
    "part_bytes": ("bytes of a large file's part, a request each", "storage.py"),
}

LOADS: tuple[tuple[str, Callable[[Load], str]], ...] = (
    ("runs at a time", lambda load: f"{load.runs:,}"),
    ("API-server writes a second", lambda load: f"{load.writes:,.1f}"),
    ("· token reviews", lambda load: f"{load.reviews:,.1f}"),
    ("· status", lambda load: f"{load.status_writes:,.1f}"),
    ("· starts", lambda load: f"{load.start_writes:,.2f}"),
    ("watch traffic, KB/s", lambda load: f"{load.watch_bytes / 1e3:,.0f}"),
    ("heartbeats a second", lambda load: f"{load.heartbeats:,.1f}"),
    ("operator, cores", lambda load: f"{load.operator_cores:,.2f}"),
    ("operator, MB beyond idle", lambda load: f"{load.operator_megabytes:,.0f}"),
    ("MLflow batches a second", lambda load: f"{load.mlflow_batches:,.1f}"),
    ("MLflow metrics a second", lambda load: f"{load.mlflow_metrics:,.0f}"),
    ("Prometheus series", lambda load: f"{load.series:,.0f}"),
    ("Prometheus, GB of memory", lambda load: f"{load.series_bytes / 1e9:,.1f}"),
    ("Prometheus samples a second", lambda load: f"{load.samples:,.0f}"),
    ("S3 requests a second", lambda load: f"{load.s3_requests:,.1f}"),
)


def page(units: Units) -> str:
    """Assumptions, units, load by size of run, and what is sharded when."""
    base = Fleet()
    loads = [load_of(units, dataclasses.replace(base, nodes_a_run=size)) for size in SIZES]
    measured = dataclasses.asdict(units)
    cost = table(
        ("unit", "measured", "from"),
        [(words, f"{measured[name]:,.4g}", where) for name, (words, where) in WORDS.items()],
    )
    header = ("in a fleet of " + f"{base.nodes:,} nodes", *(f"{size} nodes a run" for size in SIZES))
    carried = table(header, [(words, *(show(load) for load in loads)) for words, show in LOADS])
    operators = [shards(load.operator_cores, 1.0) for load in loads]
    sharding = table(
        ("what", "carries", *(f"{size} nodes a run" for size in SIZES)),
        [
            ("operators, by `watch.namespaces`", "one core of Python each", *(f"{number}" for number in operators)),
            (
                "Prometheus, by namespace",
                f"{SERVER_BYTES / 1e9:g} GB of memory each (a choice), half of it for queries",
                *(f"{shards(load.series_bytes, SERVER_BYTES / 2)}" for load in loads),
            ),
            (
                "MLflow servers, by experiment",
                f"{units.mlflow_batches_a_second:,.0f} batches a second each (measured; over SQLite, one worker)",
                *(f"{shards(load.mlflow_batches, units.mlflow_batches_a_second)}" for load in loads),
            ),
            (
                "buckets or prefixes, by `checkpoints.uri`",
                "3,500 writes a second for each prefix (Amazon's own statement)",
                *(f"{shards(load.s3_requests, 3500)}" for load in loads),
            ),
        ],
    )
    assumed = (
        f"Assumed: {base.nodes:,} nodes, all training; models of {base.parameters / 1e9:g}B "
        f"parameters; a run lasts {base.run_hours:g} hours and another starts; a "
        f"checkpoint every {base.checkpoint_minutes:g} minutes; a log step every {base.log_seconds:g} s; scrapes every "
        f"{base.scrape_seconds:g} s; {base.watchers} watchers of runs; {base.pod_events:g} events for each pod. For "
        "the operator a heartbeat is counted as dear as a pod event: both end in one write of the status. What "
        "kubelets and the scheduler write for any pod is not counted: it is the same for whoever made the pod. Nor is "
        "what pods fetch beside their checkpoint: a base model and corpora."
    )
    return "\n\n".join([assumed, "## What one costs", cost, "## What the fleet asks for", carried,
                        "## What is sharded when", sharding])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    options = parser.parse_args()
    from scale.units import measure

    text = page(measure())
    print(text)
    if options.write:
        replace_in(ROOT / "docs" / "scale.md", *MARKS, text)


if __name__ == "__main__":
    main()

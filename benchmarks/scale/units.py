"""The unit costs, measured: a real exporter, a real S3 protocol, a real run's log, what a heartbeat really holds."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rewarm_bench.product import ROOT
from scale import servers
from scale.fleet import Units
from scale.servers import count_series
from speed import product_runs
from speed.rows.step import TINY
from speed.work import Work

SETS, BUCKET = ("new", "old"), "runs"


def exposition_of_a_run() -> str:
    """What a run's first process exposes in the middle of a run of two sets."""
    from prometheus_client import generate_latest

    from rewarm_trainer.exporter import Exporter, ProcessExporter

    with Exporter(0, host="127.0.0.1") as exporter:
        ProcessExporter.within(exporter, 8)
        exporter.plan(tokens=1, steps=1, replay_ratio=0.25)
        exporter.attempt(number=1, processes=8)
        by_source = dict.fromkeys(SETS, 1)
        exporter.step(
            step=1, tokens=1, loss=1.0, learning_rate=1.0, gradient_norm=1.0, replay_share=0.25, tokens_per_second=1.0,
            losses=dict.fromkeys(SETS, 1.0), tokens_by_source=by_source,
        )  # fmt: skip
        roles = {"new": ("New", 1.0), "old": ("Retained", 1.0)}
        exporter.evaluation(roles, dict.fromkeys(SETS, 0.0), seconds=1.0)
        exporter.checkpoint(step=1, committed_at=0.0, seconds=1.0)
        exporter.seconds(dict.fromkeys(("prepare", "baseline", "train", "evaluate", "checkpoint"), 1.0))
        return generate_latest(exporter.registry).decode()


def series_of_a_run() -> tuple[int, int]:
    """Series of a run's first process, and of the first process of each other node."""
    from prometheus_client import CollectorRegistry, generate_latest

    from rewarm_trainer.exporter import ProcessExporter

    registry = CollectorRegistry()
    ProcessExporter(registry, 8)
    return count_series(exposition_of_a_run()), count_series(generate_latest(registry).decode())


def heartbeat() -> bytes:
    """A report as rank 0 sends it in the middle of a run of two sets."""
    from rewarm_api.reported import Report
    from rewarm_trainer.reporter import body_of, moment

    delta = {"mean": -0.123456, "low": -0.13, "high": -0.12}
    losses = {"baseline": 4.620748419415524, "latest": 4.497291419415524, "delta": delta}
    report = Report.model_validate(
        {
            "phase": {"activity": "Training", "deadline": moment()},
            "progress": {"step": 12_345, "tokens": 1_234_567_890, "targetTokens": 10**10, "percent": 12},
            "learningRate": 2.9e-4,
            "evaluation": [{"set": "new", "role": "New", **losses}, {"set": "old", "role": "Retained", **losses}],
            "forgetting": {"max": 0.01, "mean": 0.01},
            "gain": {"mean": 0.123},
            "replay": {"requested": 0.25, "realized": 0.25},
        }
    )
    return body_of(report)


class CountingS3:
    """moto's S3 on this machine behind a counter of requests."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: Counter[str] = Counter()
        inner = DomainDispatcherApplication(create_backend_app)

        def counting(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            self.requests[environ["REQUEST_METHOD"]] += 1
            answer: Iterable[bytes] = inner(environ, start)
            return answer

        self._server = make_server("127.0.0.1", 0, counting, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def taken(self) -> int:
        """Requests since the last time."""
        count, self.requests = sum(self.requests.values()), Counter()
        return count

    def close(self) -> None:
        self._server.shutdown()


def requests_of_checkpoints() -> tuple[float, float]:
    """S3 requests of a commit with the pruning of an old one, and of finding and fetching the newest."""
    from rewarm_trainer.checkpoint import OPTIMIZER, STATE, WEIGHTS, Checkpoints
    from rewarm_trainer.files import write_bytes_file
    from rewarm_trainer.storage import open_storage

    server = CountingS3()
    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    before = dict(os.environ)
    os.environ |= {**names, "AWS_ENDPOINT_URL": server.url}
    try:
        with tempfile.TemporaryDirectory() as place:
            store = open_storage(f"s3://{BUCKET}/one", root=Path(place))
            store.client.create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
            checkpoints = Checkpoints(store, Path(place) / "staging")
            checkpoints.claim({"pid": 1})
            commits = []
            for step in range(1, 6):
                server.taken()
                folder = checkpoints.stage(step)
                for name in (WEIGHTS, OPTIMIZER, STATE, "config.json", "tokenizer.json", "tokenizer_config.json"):
                    write_bytes_file(folder / name, bytes(1000))
                checkpoints.commit(step, step, folder)
                checkpoints.prune(2, None, ())
                commits.append(server.taken())
            Checkpoints(store, Path(place) / "other").newest(lambda message: None)
            return float(np.median(commits[2:])), float(server.taken())
    finally:
        server.close()
        os.environ.clear()
        os.environ |= before


def metrics_of_a_log_step() -> float:
    """Metrics that a run with two sources hands to MLflow for each log step, looks included."""
    import sqlite3

    with tempfile.TemporaryDirectory(prefix="rewarm-scale-") as place:
        spec = {"tracking": {"uri": f"sqlite:///{place}/mlflow.db"}, "evaluation": {"every": "25%", "lookTokens": 1000}}
        path = product_runs.manifest(Path(place), Work(**TINY, length=32, rows=4), 40, spec)
        done = product_runs.run(path, Path(place) / "run", extra={"REWARM_COMPILE": "off"})
        with sqlite3.connect(f"{place}/mlflow.db") as database:
            rows = database.execute("select count(*) from metrics").fetchone()[0]
        return float(rows / max(1, len(done.steps)))


def operator_costs(page: str) -> dict[str, Any]:
    """The operator's own measured costs, from its table in docs/operator.md. ValueError when a line is missing."""

    def read(pattern: str) -> tuple[float, ...]:
        found = re.search(pattern, page)
        if found is None:
            raise ValueError(f"docs/operator.md has no line like {pattern!r}; write it with benchmarks/operator/run.py")
        return tuple(float(each.replace(",", "")) for each in found.groups())

    runs, twice, idle, _, full = read(
        r"\| resident memory: idle, ([\d,]+) runs, ([\d,]+) runs \| (\d+), (\d+), (\d+) MB"
    )
    stored, megabytes = read(r"\| ([\d,]+) finished runs stored: a list of them \| [\d.]+ s, ([\d.]+) MB")
    return {
        "writes_until_job": read(r"writes for each run until its attempt Job exists \| ([\d.]+)")[0]
        + read(r"Events beside them \| ([\d.]+)")[0],
        "start_cpu_seconds": read(r"CPU time for each run until its attempt Job exists \| ([\d.]+) ms")[0] / 1000,
        "pod_event_cpu_seconds": read(r"CPU time for each pod event [^|]*\| ([\d.]+) ms")[0] / 1000,
        "operator_megabytes_a_run": (full - idle) / max(twice, runs),
        "object_bytes": round(1e6 * megabytes / stored),
    }


def measure() -> Units:
    """All of them; about three minutes."""
    from rewarm_operator import progress
    from rewarm_operator.settings import Settings
    from rewarm_trainer import reporter
    from rewarm_trainer.storage import S3Storage

    whole, process = series_of_a_run()
    commit, start = requests_of_checkpoints()
    told, metrics = heartbeat(), metrics_of_a_log_step()
    settings = {field.name: field.default for field in Settings.__dataclass_fields__.values()}
    return Units(
        heartbeat_bytes=len(told),
        heartbeat_seconds=reporter.EVERY_SECONDS,
        review_seconds=progress._TRUSTED_SECONDS,
        status_seconds=float(settings["status_interval_seconds"]),
        run_series=whole,
        process_series=process,
        metrics_a_log_step=metrics,
        mlflow_batches_a_second=servers.mlflow_batches_a_second(round(metrics)),
        prometheus_bytes_a_series=servers.prometheus_bytes_a_series(exposition_of_a_run()),
        requests_a_commit=commit,
        requests_a_start=start,
        part_bytes=S3Storage._transfer().multipart_chunksize,
        **operator_costs((ROOT / "docs" / "operator.md").read_text()),
    )

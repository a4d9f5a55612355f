"""Who hears of what training does: the log first, then tracking, metrics and the display. Rank 0 only.

Everything written here is also readable from `log.jsonl`; nothing here decides anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rewarm_api.snapshot import Role
from rewarm_trainer.exporter import Exporter
from rewarm_trainer.progress import Progress
from rewarm_trainer.tracking import Tracker
from rewarm_trainer.workdir import RunLog


class Listener:
    """Spreads one record to all who want it. Called from the training thread and from the checkpoint thread."""

    def __init__(
        self, log: RunLog, progress: Progress, tracker: Tracker, exporter: Exporter | None, tokens_per_row: int
    ) -> None:
        self.log, self.progress, self.tracker, self.exporter = log, progress, tracker, exporter
        self._tokens_per_row = tokens_per_row
        self._warned: str | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        self.log.write(record)
        kind = record.get("event")
        if kind is None:
            self._step(record)
        elif kind == "evaluation":
            self._evaluation(record)
        elif kind == "checkpoint committed":
            if self.exporter:
                self.exporter.checkpoint(step=record["step"], committed_at=time.time(), seconds=record["seconds"])
            self.progress.event(f"checkpoint committed after step {record['step']:,} ({record['seconds']:.1f} s)")
        elif kind == "warning":
            self.progress.event(f"warning: {record['message']}")
        elif kind == "phase began":
            self.progress.event(f"phase {record['name']} begins after step {record['step']:,}")
        elif kind == "finish":
            self.progress.event(f"finish: {record['words']}")
        elif kind == "finished":
            self._finished(record)
        elif kind == "decision":
            self.progress.event(f"{record['what']}: {record['why']}")

    def _step(self, record: Mapping[str, Any]) -> None:
        metrics = {
            "train/loss": record["loss"],
            "train/learning_rate": record["learning_rate"],
            "train/grad_norm": record["gradient_norm"],
            "train/tokens_per_second": record["tokens_per_second"],
            "train/replay_share": record["replay_share"],
            **{f"train/loss/{name}": loss for name, loss in record["losses"].items()},
        }
        self.tracker.log(metrics, record["tokens"])
        self.tracker.begin()
        if self.exporter:
            self.exporter.step(
                step=record["step"],
                tokens=record["tokens"],
                loss=record["loss"],
                learning_rate=record["learning_rate"],
                gradient_norm=record["gradient_norm"],
                replay_share=record["replay_share"],
                tokens_per_second=record["tokens_per_second"],
                losses=record["losses"],
                tokens_by_source={name: rows * self._tokens_per_row for name, rows in record["rows"].items()},
            )
        self.progress.step(record)
        if self.tracker.problem != self._warned:
            self._warned = self.tracker.problem
            if self._warned:
                self.progress.event(f"tracking: {self._warned}; training goes on, nothing is lost")

    def _finished(self, record: Mapping[str, Any]) -> None:
        """The finished model beside the last look at the raw one, under names of its own."""
        metrics = {}
        for name, line in record["sets"].items():
            metrics[f"finished/{name}/loss"] = line["final"]["loss"]
            metrics[f"finished/{name}/bits_per_byte"] = line["final"]["bits_per_byte"]
            metrics[f"finished/{name}/delta"] = line["delta"]["mean"]
        metrics |= benchmark_metrics(record.get("benchmarks", {}))
        self.tracker.log(metrics, record["tokens"])
        self.progress.event(f"finished model committed to {record['checkpoint']['uri']}")

    def _evaluation(self, record: Mapping[str, Any]) -> None:
        metrics: dict[str, float] = {}
        for name, line in record["sets"].items():
            metrics[f"eval/{name}/loss"] = line["loss"]
            metrics[f"eval/{name}/bits_per_byte"] = line["bits_per_byte"]
            if line["delta"]:
                metrics[f"eval/{name}/delta"] = line["delta"]["mean"]
            if line.get("flips"):
                metrics[f"eval/{name}/negative_flips"] = line["flips"]["negative"]["mean"]
                metrics[f"eval/{name}/positive_flips"] = line["flips"]["positive"]["mean"]
        metrics |= benchmark_metrics(record.get("benchmarks", {}))
        summary = {
            "forgetting/max": record["forgetting"]["max"],
            "forgetting/mean": record["forgetting"]["mean"],
            "gain/mean": record["gain"]["mean"],
        }
        metrics.update({name: value for name, value in summary.items() if value is not None})
        self.tracker.log(metrics, record["tokens"])
        if self.exporter:
            losses = {name: (str(Role(line["role"])), line["loss"]) for name, line in record["sets"].items()}
            deltas = {name: line["delta"]["mean"] for name, line in record["sets"].items() if line["delta"]}
            self.exporter.evaluation(losses, deltas, seconds=record["seconds"])
        self.progress.evaluation(record)


def benchmark_metrics(benchmarks: Mapping[str, Any]) -> dict[str, float]:
    """What benchmarks showed in one look, by `benchmark/NAME/TASK`."""
    found: dict[str, float] = {}
    for name, benchmark in benchmarks.items():
        for task, line in benchmark["tasks"].items():
            found |= _task_metrics(f"benchmark/{name}/{task}", line)
    return found


def _task_metrics(prefix: str, line: Mapping[str, Any]) -> dict[str, float]:
    """A task's line in a look: the base's answers alone, or the candidate's against them."""
    metrics = {f"{prefix}/accuracy": line.get("final", line)["accuracy"]}
    if "flips" in line:
        metrics[f"{prefix}/delta"] = line["delta"]["mean"]
        metrics[f"{prefix}/negative_flips"] = line["flips"]["negative"]["mean"]
        metrics[f"{prefix}/positive_flips"] = line["flips"]["positive"]["mean"]
    return metrics

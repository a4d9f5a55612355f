"""A finished run's place in MLflow: its model version, its alias when the gates passed, its terminal status.

When the server is away at the end the run is finished all the same; the same command, run again, delivers the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.chain_report import metrics_of
from rewarm_trainer.finish import publish
from rewarm_trainer.tracking import Tracker, Untracked
from rewarm_trainer.workdir import WorkFolder

_HOLD_SECONDS = 30.0
"""A long baseline shows itself in MLflow before the first step."""


def open_tracker(
    work: WorkFolder, snapshot: Snapshot, pins: Pins, *, owned: bool = True, run_id: str | None = None
) -> Tracker:
    """The MLflow run of this run, found again or made; without `tracking.uri` a database in the work folder.

    Not `owned`: the operator makes and ends it (`run_id`, when that is known by now); we only add to it.
    """
    tracking = snapshot.tracking
    if not owned and tracking.uri is None:
        return Untracked()
    return Tracker.start(
        tracking.uri or f"sqlite:///{work.mlflow}",
        tracking.experiment,
        snapshot.name,
        snapshot.uid,
        {"rewarm.dev/run": snapshot.name, "rewarm.dev/snapshot-digest": snapshot.digest},
        _parameters(snapshot, pins),
        work.state / "spool",
        work.root / "mlartifacts",
        owned=owned,
        run_id=run_id,
        hold_seconds=_HOLD_SECONDS,
    )


def register(
    tracker: Tracker, work: WorkFolder, snapshot: Snapshot, pins: Pins, report: dict[str, Any], *, aliases: bool = True
) -> tuple[dict[str, Any], str]:
    """Register the final checkpoint, move the alias if promoted, close the MLflow run, and say so in the report.

    Without `aliases` somebody else moves them. Returns the report and, when something could not be delivered, one
    line about it.
    """
    model = snapshot.tracking.registered_model
    if "finish" in report:
        # The last checkpoint is a version of its own, so that one can go back to it.
        raw = unfinished(report)
        tracker.register(model, raw["checkpoint"]["uri"], lineage(snapshot, pins, raw))
    version = tracker.register(model, report["checkpoint"]["uri"], lineage(snapshot, pins, report))
    is_aliased = not (aliases and report["promotion"]["promoted"])
    if version and not is_aliased:
        is_aliased = tracker.set_alias(model, snapshot.tracking.promote_alias, version)
    tracker.log(metrics_of(report), report["tokens"]["trained"])
    for path in (work.report_html, work.model_card, work.heat_map):
        if path.exists():
            tracker.attach(path)
    ended = tracker.finish("FINISHED")
    report["tracking"] = {
        "run_id": tracker.run_id or "",
        "model_version": version or "",
        "delivered": ended.delivered and version is not None and is_aliased,
    }
    publish(work, snapshot, pins, report)
    return report, "" if ended.delivered else ended.message


def unfinished(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as it would be of the last checkpoint, before `finish`."""
    raw = report["finish"]["raw"]
    return {
        **{key: value for key, value in report.items() if key != "finish"},
        **{key: raw[key] for key in ("checkpoint", "sets", "forgetting", "gain")},
        "promotion": {"promoted": False, "reason": "the finished model was judged in its place"},
    }


def lineage(snapshot: Snapshot, pins: Pins, report: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the registered version: base, corpora, ratio, schedule and verdict."""
    finish = {"rewarm.dev/finish": json.dumps(report["finish"]["steps"])} if "finish" in report else {}
    return {
        **finish,
        "rewarm.dev/run": snapshot.name,
        "rewarm.dev/run-uid": snapshot.uid,
        "rewarm.dev/snapshot-digest": snapshot.digest,
        "rewarm.dev/base": json.dumps(pins.base_model, sort_keys=True),
        "rewarm.dev/corpora": json.dumps({name: pin.digest for name, pin in sorted(pins.sources.items())}),
        "rewarm.dev/replay-ratio": str(report["replay"]["realized"]),
        "rewarm.dev/schedule": snapshot.schedule.kind,
        "rewarm.dev/peak-learning-rate": str(snapshot.schedule.peak_learning_rate),
        "rewarm.dev/verdict": json.dumps({name: value["verdict"] for name, value in report["sets"].items()}),
        "rewarm.dev/forgetting-max": str(report["forgetting"]["max"]),
        "rewarm.dev/gain-mean": str(report["gain"]["mean"]),
        "rewarm.dev/promotion": report["promotion"]["reason"],
    }


def _parameters(snapshot: Snapshot, pins: Pins) -> dict[str, Any]:
    """What MLflow shows of a run's settings; immutable there, so only what the snapshot fixes."""
    return {
        "base_model": snapshot.base_model.kind,
        "replay_ratio": snapshot.replay.ratio,
        "schedule": snapshot.schedule.kind,
        "peak_learning_rate": snapshot.schedule.peak_learning_rate,
        "final_learning_rate": snapshot.schedule.final_learning_rate,
        "tokens": pins.plan.tokens,
        "global_batch_tokens": pins.plan.tokens_per_step,
        "sequence_length": snapshot.training.sequence_length,
        "seed": snapshot.training.seed,
    }

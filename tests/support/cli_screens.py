"""Runs as an operator would have written them, at moments that people look at; their screens lie beside this file."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rewarm_cli.records import Run, RunEvent, run_of
from rewarm_cli.status_view import status_view

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "schedule": {"peakLearningRate": 3e-4},
    "budget": {"tokens": "2B"},
    "gates": {"maxForgetting": 0.02, "minGain": 0.05},
    "tracking": {"registeredModel": "llama-pubmed", "promoteAlias": "champion"},
}
UNKNOWN = [
    {"type": kind, "status": "Unknown", "reason": "", "message": ""}
    for kind in ("Succeeded", "SpecValid", "DataReady", "Admitted", "Running", "Checkpointed", "Evaluated",
                 "GatesPassed", "Registered", "Suspended", "Stalled", "Degraded")
]  # fmt: skip
RETAINED = {"set": "general-heldout", "role": "Retained", "baseline": 2.71}
NEW = {"set": "pubmed", "role": "New", "baseline": 2.31}


def conditions(**changes: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Every known condition; changes are (status, reason, message)."""
    found = []
    for item in UNKNOWN:
        status, reason, message = changes.get(item["type"], ("Unknown", "", ""))
        found.append({**item, "status": status, "reason": reason, "message": message})
    return found


def run(status: dict[str, Any] | None, *, spec: dict[str, Any] | None = None, **metadata: Any) -> Run:
    about = {"name": "llama-pubmed", "namespace": "research", "uid": "u-1", "generation": 1}
    about |= {"creationTimestamp": "2026-01-31T08:48:00Z", **metadata}
    document: dict[str, Any] = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": about}
    document["spec"] = {**SPEC, **(spec or {})}
    return run_of(document if status is None else {**document, "status": {"observedGeneration": 1, **status}})


def delta(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "confidence": 0.95}


READY = {"SpecValid": ("True", "Valid", ""), "DataReady": ("True", "Prepared", "")}
RUNNING = {**READY, "Admitted": ("True", "NoQueue", ""), "Running": ("True", "Training", "")}
TRAINING: dict[str, Any] = {
    "summary": "Training",
    "conditions": conditions(**RUNNING, Checkpointed=("True", "Committed", "")),
    "phase": {"name": "", "activity": "Training", "deadline": "2026-01-31T12:05:00Z"},
    "progress": {
        "step": 1200, "tokens": 1258291200, "targetTokens": 2000683008, "percent": 62, "tokensPerSecond": 81000,
        "etaSeconds": 9200,
    },
    "learningRate": 0.00021,
    "evaluation": [
        {**NEW, "latest": 2.02, "delta": delta(-0.29, -0.31, -0.27), "verdict": "Win"},
        {**RETAINED, "latest": 2.721, "delta": delta(0.011, 0.004, 0.018), "verdict": "Lose"},
    ],
    "forgetting": {"max": 0.011, "mean": 0.011},
    "gain": {"mean": 0.29},
    "replay": {"requested": 0.25, "realized": 0.2504},
    "counts": {"attempts": 2, "failures": 0, "disruptions": 1},
    "attempts": [
        {"number": 1, "cause": "Preempted", "startTime": "2026-01-31T08:50:00Z", "endTime": "2026-01-31T11:00:00Z",
         "firstStep": 1, "lastStep": 640, "tokensRecomputed": 4194304},
        {"number": 2, "startTime": "2026-01-31T11:05:00Z", "firstStep": 637, "lastStep": 1200},
    ],
    "checkpoint": {"uri": "s3://runs/llama-pubmed/checkpoints/step-00001100", "step": 1100,
                   "committedAt": "2026-01-31T11:56:00Z"},
    "tracking": {"runId": "7b1c", "url": "http://mlflow.mlops:5000/#/experiments/3/runs/7b1c", "modelVersion": ""},
}  # fmt: skip
ENDED = [
    TRAINING["attempts"][0],
    {"number": 2, "cause": "Completed", "startTime": "2026-01-31T11:05:00Z", "endTime": "2026-01-31T11:58:00Z",
     "firstStep": 637, "lastStep": 1908},
]  # fmt: skip
EARLY: dict[str, Any] = {
    **TRAINING,
    "progress": {**TRAINING["progress"], "step": 60, "tokens": 62914560, "percent": 3, "etaSeconds": 24000},
    "evaluation": [
        {**NEW, "latest": 2.5, "delta": delta(0.19, 0.17, 0.21), "verdict": "Lose"},
        {**RETAINED, "latest": 2.96, "delta": delta(0.25, 0.24, 0.26), "verdict": "Lose"},
    ],
    "forgetting": {"max": 0.25, "mean": 0.25},
    "gain": {"mean": -0.19},
    "counts": {"attempts": 1, "failures": 0, "disruptions": 0},
    "attempts": [{"number": 1, "startTime": "2026-01-31T11:45:00Z", "firstStep": 1, "lastStep": 60}],
    "checkpoint": None,
}
SUCCEEDED: dict[str, Any] = {
    **TRAINING,
    "summary": "Succeeded",
    "attempts": ENDED,
    "conditions": conditions(
        **READY, Succeeded=("True", "GatesPassed", "trained on 2B tokens; every gate passed"),
        GatesPassed=("True", "GatesPassed", ""), Registered=("True", "Registered", ""),
    ),
    "progress": {**TRAINING["progress"], "step": 1908, "tokens": 2000683008, "percent": 100, "etaSeconds": 0},
    "gates": [
        {"name": "maxForgetting", "limit": 0.02, "value": 0.011, "result": "Pass"},
        {"name": "minGain", "limit": 0.05, "value": 0.29, "result": "Pass"},
    ],
    "promotion": {"promoted": True, "reason": "every gate passed; champion is version 7"},
    "tracking": {**TRAINING["tracking"], "modelVersion": "7"},
}  # fmt: skip
TOO_SHORT = "spec.budget.epochs: found 0.001, expected at least one step; raise budget.epochs"
OUT_OF_MEMORY = "container trainer of llama-pubmed-a2-1 was OOMKilled; raise resources or lower microBatchRows"

RUNS: dict[str, Run] = {
    "pending": run(None),
    "invalid": run({
        "summary": "Pending",
        "conditions": conditions(SpecValid=("False", "Invalid", TOO_SHORT)),
    }),
    "missing-secret": run({
        "summary": "Preparing",
        "conditions": conditions(SpecValid=("True", "Valid", ""), DataReady=(
            "False", "MissingSecret", "secret s3-credentials not found in namespace research; create it")),
    }),
    "queued": run({
        "summary": "Queued",
        "conditions": conditions(**READY, Admitted=(
            "False", "QuotaReserved", "queue gpu-queue: 16 more nvidia.com/gpu needed, 8 free")),
        "counts": {"attempts": 1, "failures": 0, "disruptions": 0},
        "attempts": [{"number": 1}],
    }),
    "early": run(EARLY),
    "training": run(TRAINING),
    "suspended": run(
        {**TRAINING, "summary": "Suspended", "conditions": conditions(**READY, Suspended=("True", "Asked", "")),
         "attempts": [{**TRAINING["attempts"][0], "cause": "Suspended", "tokensRecomputed": 0}],
         "counts": {"attempts": 1, "failures": 0, "disruptions": 0}, "phase": None},
        spec={"suspend": True},
    ),
    "succeeded": run(SUCCEEDED),
    "gates-failed": run({
        **SUCCEEDED,
        "conditions": conditions(**READY, Succeeded=("True", "GatesFailed", "maxForgetting failed"),
                                 GatesPassed=("False", "GatesFailed", "")),
        "gates": [{"name": "maxForgetting", "limit": 0.02, "value": 0.041, "result": "Fail"},
                  {"name": "minGain", "limit": 0.05, "value": 0.29, "result": "Pass"}],
        "promotion": {"promoted": False, "reason": "maxForgetting failed"},
    }),
    "failed": run({
        **TRAINING, "summary": "Failed",
        "conditions": conditions(**READY, Succeeded=("False", "OutOfMemory", OUT_OF_MEMORY)),
        "counts": {"attempts": 2, "failures": 1, "disruptions": 1},
        "attempts": [ENDED[0], {**ENDED[1], "cause": "OutOfMemory", "lastStep": 1200}],
    }),
    "deleting": run(TRAINING, deletionTimestamp="2026-01-31T11:59:00Z"),
}  # fmt: skip

EVENTS = [
    RunEvent(time=time, type=kind, reason=reason, message=message, about=about, count=count)
    for time, kind, reason, message, about, count in (
        ("2026-01-31T08:50:00Z", "Normal", "AttemptStarted", "attempt 1 on 2 nodes", "ContinualRun/llama-pubmed", 1),
        ("2026-01-31T11:00:00Z", "Warning", "Preempted", "attempt 1 ended after step 640: by the scheduler",
         "ContinualRun/llama-pubmed", 1),
        ("2026-01-31T11:56:00Z", "Normal", "CheckpointCommitted", "step 1100", "ContinualRun/llama-pubmed", 11),
    )
]  # fmt: skip


def screen(run: Run, events: list[RunEvent], width: int) -> str:
    """What a terminal of this width shows, without colour and without blanks at line ends."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, legacy_windows=False)
    for part in status_view(run, events, NOW):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"

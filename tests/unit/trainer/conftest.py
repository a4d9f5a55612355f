"""One realistic finished run, made of numbers: for the tests of report, page, curves and card."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.report import CheckpointFacts, Facts, Look, Loss, SetFacts
from rewarm_trainer.runlog import Attempt

STEPS, BATCH, LENGTH = 480, 8192, 256
PLAN = STEPS * BATCH
RATIO = 0.25
_SETS = {  # role, documents, tokens, baseline loss, final change, height of the stability gap
    "stdlib-code": ("New", 412, 48210, 3.7125, -0.8412, 0.0),
    "stdlib-docs": ("Retained", 388, 50110, 3.0210, 0.0124, 0.118),
    "tiny": ("Retained", 12, 1200, 2.9, 0.004, 0.0),
}


@dataclass
class Example:
    """A run as its files would hold it."""

    facts: Facts
    records: list[dict[str, Any]]
    snapshot: Snapshot
    pins: Pins
    extra: dict[str, Any] = field(default_factory=dict)


def learning_rate(tokens: int) -> float:
    warmup, peak, final = PLAN // 20, 1e-3, 1e-4
    if tokens <= warmup:
        return peak * tokens / warmup
    progress = (tokens - warmup) / (PLAN - warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _delta(mean: float, half: float) -> SimpleNamespace:
    return SimpleNamespace(mean=mean, low=mean - half, high=mean + 1.1 * half, confidence=0.95)


def _look(name: str, step: int) -> Look:
    _, _, _, baseline, change, gap = _SETS[name]
    noise = random.Random(step)
    progress = step / STEPS
    mean = change * (1 - math.exp(-6 * progress)) + gap * (progress / 0.03) * math.exp(1 - progress / 0.03)
    mean += noise.gauss(0, 0.002)
    half = 0.011 if step < STEPS else 0.004
    if step == 0:
        return Look(0, baseline)
    return Look(step * BATCH, baseline + mean + 0.05, _delta(change if step == STEPS else mean, half))


def set_facts(name: str) -> SetFacts:
    role, documents, tokens, baseline, change, gap = _SETS[name]
    steps = sorted({0, *(2**power for power in range(5)), *range(24, STEPS + 1, 24)})
    history = [_look(name, step) for step in steps]
    judged = documents >= 30
    peak = max(history[1:], key=lambda look: look.delta.mean)
    found = SimpleNamespace(depth=0.0, low=None, high=None, peak_tokens=None, recovered_tokens=None)
    if gap:
        delta = peak.delta
        found = SimpleNamespace(
            depth=delta.mean, low=delta.low, high=delta.high, peak_tokens=peak.tokens, recovered_tokens=96 * BATCH
        )
    return SetFacts(
        role=role,
        documents=documents,
        tokens=tokens,
        baseline=Loss(baseline, baseline / 2.1),
        final=Loss(baseline + change, (baseline + change) / 2.1),
        delta=_delta(change, 0.0041) if judged else SimpleNamespace(mean=change, low=None, high=None, confidence=0.95),
        verdict=("Win" if change < 0 else "Lose") if judged else None,
        stability_gap=found,
        history=history,
    )


def step_record(step: int) -> dict[str, Any]:
    noise = random.Random(1000 + step)
    loss = 2.75 + 1.05 * math.exp(-5 * step / STEPS) + noise.gauss(0, 0.03)
    rows = step * BATCH // LENGTH
    replay = int(rows * RATIO + 0.5)
    return {
        "step": step,
        "tokens": step * BATCH,
        "loss": loss,
        "learning_rate": learning_rate(step * BATCH),
        "rows": {"stdlib-code": rows - replay, "stdlib-docs": replay},
        "losses": {"stdlib-code": loss + 0.1 + noise.gauss(0, 0.03), "stdlib-docs": loss - 0.3 + noise.gauss(0, 0.05)},
        "gradient_norm": 0.8 + 0.2 * noise.random(),
        "tokens_per_second": 21500 + noise.gauss(0, 700) - (9000 if step == 1 else 0),
        "replay_share": replay / rows,
        "time": 1790000000.0 + step,
    }


def log_records() -> list[dict[str, Any]]:
    """Two attempts: the first killed after step 250, the second from the checkpoint of step 240."""
    logged = [step for step in range(1, STEPS + 1) if step <= 100 or step % 10 == 0]
    first = [step_record(step) for step in logged if step <= 250]
    second = [step_record(step) for step in logged if step > 240]
    commit = {
        "event": "checkpoint committed",
        "path": "checkpoints/step-00000240",
        "seconds": 0.4,
        "time": 1790000240.0,
    }
    started = {"event": "attempt started", "processes": 1, "pid": 7}
    return [
        {**started, "number": 1, "step": 0, "time": 1790000000.0},
        *[record for record in first if record["step"] <= 240],
        {**commit, "step": 240, "tokens": 240 * BATCH},
        *[record for record in first if record["step"] > 240],
        {**started, "number": 2, "step": 240, "time": 1790000300.0},
        *second,
        {**commit, "step": STEPS, "tokens": PLAN, "time": 1790000900.0},
        {"event": "attempt ended", "number": 2, "cause": "Completed", "time": 1790000905.0},
    ]


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "name": "stdlib-replay",
        "uid": "5f8a3c1e-2b7d-4a60-9d1e-0f6f2f9be001",
        "snapshot_digest": "sha256:" + "3a" * 32,
        "outcome": "Succeeded",
        "requested_tokens": 3_930_000,
        "trained_tokens": PLAN,
        "tokens_by_source": {"stdlib-code": PLAN * 3 // 4, "stdlib-docs": PLAN // 4},
        "epochs": {"stdlib-code": 1.73, "stdlib-docs": 0.62},
        "replay_requested": RATIO,
        "replay_realized": 0.25,
        "sets": {name: set_facts(name) for name in _SETS},
        "forgetting_max": 0.0124,
        "forgetting_mean": 0.0082,
        "gain_mean": 0.8412,
        "gates": [
            SimpleNamespace(name="maxForgetting", limit=0.02, value=0.0124, result="Pass"),
            SimpleNamespace(name="minGain", limit=0.05, value=0.8412, result="Pass"),
        ],
        "promoted": True,
        "promotion_reason": "all gates pass",
        "attempts": [Attempt(1, "Unknown", 1, 250, 10 * BATCH), Attempt(2, "Completed", 241, STEPS, 0)],
        "checkpoint": CheckpointFacts("checkpoints/step-00000480", STEPS, "9c" * 32),
        "tracking_run_id": "eaa80f5c2f8840419f862ea768f6ee89",
        "model_version": "1",
        "tokens_per_second": 21400.5,
        "seconds": {"prepare": 3.2, "baseline": 2.1, "train": 183.7, "evaluate": 19.4, "checkpoint": 1.1},
        "remarks": ["proxy replay: the replay text is not known to be the base model's own training data"],
        "warnings": ["source stdlib-docs: no licence is stated"],
        "extra": {"environment": {"torch": "2.15.0", "threads": 2}},
    }
    return Facts(**{**values, **changes})


def snapshot() -> Snapshot:
    def source(name: str, group: str, license: str | None) -> dict[str, Any]:
        return {
            "name": name, "group": group, "uri": f"{name}/*.jsonl", "format": None, "textField": "text",
            "groupField": "", "weight": None, "license": license, "digest": None, "badLines": 0,
        }  # fmt: skip

    return Snapshot.model_validate(
        {
            "name": "stdlib-replay",
            "uid": "5f8a3c1e-2b7d-4a60-9d1e-0f6f2f9be001",
            "baseModel": {"kind": "huggingFace", "options": {"repo": "example/tiny-base", "revision": "4e20de36"}},
            "sources": [source("stdlib-code", "Corpus", "PSF-2.0"), source("stdlib-docs", "Replay", None)],
            "replay": {"ratio": RATIO, "fromRun": None, "method": "Interleave", "maxRepeats": 4},
            "schedule": {
                "kind": "Rewarm", "peakLearningRate": 1e-3, "constantLearningRate": None, "finalLearningRate": 1e-4,
                "warmup": "5%", "decay": "Cosine", "decayLength": None, "timescale": 10.0, "cooldownLength": None,
                "cooldownDecay": None, "cooldownTimescale": 10.0, "annealLength": None, "annealDecay": None,
                "annealTimescale": 10.0, "optimizerState": "Reset",
            },
            "budget": {"tokens": 3_930_000, "epochs": None},
            "training": {
                "sequenceLength": LENGTH, "globalBatchTokens": BATCH, "microBatchRows": None,
                "optimizer": {
                    "kind": "AdamW", "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1,
                    "gradientClip": 1.0,
                },
                "precision": "BF16", "documentMasking": True, "documentStart": "Tokenizer",
                "activationCheckpointing": "None", "freeze": [], "divergence": {"rollbacks": 2, "skipSteps": 16},
                "seed": 17,
            },
            "evaluation": {
                "every": None, "lookTokens": 100_000,
                "heldOut": {"fraction": "5%", "minimumDocuments": 64, "maximumTokens": 1_000_000},
                "sets": [
                    {
                        "name": name, "role": role, "uri": None, "format": None, "textField": "text",
                        "labelField": "", "dateField": "",
                    }
                    for name, (role, *_) in _SETS.items()
                ],
            },
            "gates": {"maxForgetting": 0.02, "minGain": 0.05, "onForgetting": "Warn"},
            "checkpoints": {"uri": None, "every": None, "everyMinutes": 30, "keep": 3},
            "cacheUri": None,
            "tracking": {
                "uri": None, "experiment": "stdlib", "registeredModel": "stdlib-replay", "promoteAlias": "champion",
            },
            "plan": plan(),
        }
    )  # fmt: skip


def plan() -> dict[str, Any]:
    warmup = PLAN // 20
    return {
        "requestedTokens": 3_930_000, "tokensPerStep": BATCH, "rowsPerStep": BATCH // LENGTH, "steps": STEPS,
        "tokens": PLAN, "evaluationEvery": PLAN // 20, "checkpointEvery": PLAN // 10, "trunk": False,
        "segments": [
            {"kind": "Warmup", "start": 0, "end": warmup, "first": 0.0, "last": 1e-3},
            {"kind": "Decay", "start": warmup, "end": PLAN, "first": 1e-3, "last": 1e-4, "decay": "Cosine"},
        ],
    }  # fmt: skip


def pins() -> Pins:
    def source(documents: int, rows: int) -> dict[str, Any]:
        return {
            "digest": "sha256:" + "7b" * 32, "prepared": "abc", "documents": documents, "duplicates": 31,
            "heldOutDocuments": 400, "badLines": 0, "tokens": rows * LENGTH, "rows": rows, "droppedTokens": 3,
            "weight": float(rows), "repeats": 1.0,
        }  # fmt: skip

    return Pins.model_validate(
        {
            "baseModel": {"kind": "huggingFace", "revision": "4e20de362430cd3b72f300e6b0f18e50e7166e08"},
            "tokenizer": "sha256:" + "5d" * 32,
            "eos": 0,
            "bos": None,
            "vocabulary": 2048,
            "sources": {"stdlib-code": source(8231, 6500), "stdlib-docs": source(7710, 6100)},
            "sets": {
                name: {"digest": "sha256:" + "1e" * 32, "prepared": "def", "documents": value[1], "tokens": value[2]}
                for name, value in _SETS.items()
            },
            "plan": plan(),
        }
    )


@pytest.fixture
def example() -> Example:
    return Example(facts(), log_records(), snapshot(), pins())


@pytest.fixture
def facts_with() -> Callable[..., Facts]:
    """Facts of the example run with some of them changed."""
    return facts

"""What a run's log makes of a report."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_models import plan_of

from rewarm_api.reported import read_report
from rewarm_trainer.told import Told, make_report

NOW = "2026-01-31T12:00:00Z"
DELTA = {"mean": -0.2, "low": -0.3, "high": -0.1, "confidence": 0.95}


def look(step: int, delta: dict[str, float] | None) -> dict[str, Any]:
    line = {"role": "New", "loss": 3.0 - 0.1 * step, "bits_per_byte": 1.0, "delta": delta}
    summary = {"forgetting": {"max": None, "mean": None}, "gain": {"mean": delta and -delta["mean"]}}
    return {"event": "evaluation", "step": step, "tokens": step * 192, "sets": {"code": line}, **summary}


def step(number: int) -> dict[str, Any]:
    return {
        "step": number,
        "tokens": number * 192,
        "tokens_per_second": 96.0,
        "learning_rate": 1e-3,
        "replay_share": 0.25,
    }


def test_the_story_of_an_attempt() -> None:
    told = Told(plan_of(8), 0.25)
    assert told.record({"event": "attempt started", "number": 2, "step": 4}, NOW)
    told.resumed([look(0, None), look(2, DELTA)])
    assert not told.record(step(5), NOW)
    assert told.record(look(5, DELTA), NOW)
    committed = {"event": "checkpoint committed", "step": 5, "path": "s3://runs/a/step-5", "sha256": "0" * 64}
    assert told.record(committed, NOW)
    assert told.record({"event": "decision", "what": "RaiseReplay", "why": "it forgets", "tokens": 960}, NOW)
    report = make_report(told.fields())
    assert read_report(json.dumps({"rewarm": report.to_json()}).encode()) == report, "it travels unchanged"
    value = report.to_json()
    assert value["progress"] == {
        "step": 5, "tokens": 960, "targetTokens": 1536, "percent": 62, "tokensPerSecond": 96.0, "etaSeconds": 6.0
    }  # fmt: skip
    assert value["attempt"] == {"number": 2, "firstStep": 5, "lastStep": 5}
    assert value["evaluation"] == [{"set": "code", "role": "New", "baseline": 3.0, "latest": 2.5, "delta": DELTA}]
    assert value["gain"] == {"mean": 0.2}
    assert value["checkpoint"] == {"uri": "s3://runs/a/step-5", "step": 5, "committedAt": NOW, "sha256": "0" * 64}
    assert value["decisions"] == [{"what": "RaiseReplay", "why": "it forgets", "tokens": 960}]
    assert value["replay"] == {"requested": 0.25, "realized": 0.25}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_told(number: float) -> None:
    told = Told(plan_of(8), 0.0)
    told.started(1, 0)
    broken = look(0, {**DELTA, "mean": number})
    broken["sets"]["code"]["loss"] = number
    told.record(broken, NOW)
    told.record({**step(1), "tokens_per_second": number}, NOW)
    value = make_report(told.fields()).to_json()
    assert value["evaluation"] == [{"set": "code", "role": "New"}]
    assert "tokensPerSecond" not in value["progress"]


def test_many_warnings_end_with_the_newest() -> None:
    told = Told(None, 0.0)
    for number in range(40):
        told.record({"event": "warning", "message": f"warning {number}"}, NOW)
    assert make_report(told.fields()).warnings == [f"warning {number}" for number in range(24, 40)]


def test_a_commit_between_log_steps_tells_how_far_training_came() -> None:
    told = Told(plan_of(8), 0.25)
    told.record({"event": "attempt started", "number": 1, "step": 0}, NOW)
    told.record(step(5), NOW)
    told.record({"event": "checkpoint committed", "step": 7, "path": "s3://runs/a/step-7"}, NOW)
    value = make_report(told.fields()).to_json()
    assert value["attempt"]["lastStep"] == value["progress"]["step"] == value["checkpoint"]["step"] == 7
    assert value["progress"]["tokensPerSecond"] == 96.0
    told.record({"event": "checkpoint committed", "step": 7, "path": "s3://runs/a/step-7"}, NOW)
    told.record(step(8), NOW)
    assert make_report(told.fields()).to_json()["attempt"]["lastStep"] == 8

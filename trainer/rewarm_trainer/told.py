"""What rank 0 has to tell the operator, gathered from the records of its own log. Pure: records in, a Report out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rewarm_api.reported import Decided, Report, TrainedSteps
from rewarm_api.snapshot import Plan
from rewarm_api.status import (
    Checkpoint,
    Delta,
    ForgettingSummary,
    Gain,
    GateResult,
    Progress,
    Promotion,
    ReplayShare,
    SetEvaluation,
)
from rewarm_trainer.files import finite

_NEWEST = 16


class Told:
    """The newest of everything, as a Report. `record` takes records of log.jsonl, `report` takes report.json."""

    def __init__(self, plan: Plan | None, replay_requested: float) -> None:
        self._plan = plan
        self._replay_requested = replay_requested
        self._fields: dict[str, Any] = {}
        self._baseline: dict[str, float] = {}
        self._warnings: list[str] = []
        self._decisions: list[Decided] = []
        self._attempt = (1, 0)
        self._reached = 0

    def fields(self) -> dict[str, Any]:
        """What was said so far, by field of Report."""
        said = dict(self._fields)
        if self._warnings:
            said["warnings"] = self._warnings[-_NEWEST:]
        if self._decisions:
            said["decisions"] = self._decisions[-_NEWEST:]
        return said

    def record(self, record: Mapping[str, Any], now: str) -> bool:
        """Takes one record, written at `now` (RFC 3339); True when it is worth telling at once."""
        record = finite(dict(record))
        kind = record.get("event")
        if kind is None:
            self._step(record)
            return False
        if kind == "evaluation":
            self._evaluation(record)
        elif kind == "checkpoint committed":
            self._fields["checkpoint"] = Checkpoint(
                uri=record["path"], step=record["step"], committed_at=now, sha256=record.get("sha256")
            )
            self._at_least(record["step"])
        elif kind == "warning":
            self._warnings.append(str(record["message"]))
        elif kind == "decision":
            self._decisions.append(Decided(what=record["what"], why=record["why"], tokens=record.get("tokens", 0)))
        elif kind == "attempt started":
            self.started(record["number"], record["step"])
        return kind in ("evaluation", "checkpoint committed", "decision", "attempt started")

    def started(self, number: int, step: int) -> None:
        """An attempt goes on after `step` updates."""
        self._attempt, self._reached = (number, step), step
        self._stand(step)

    def _stand(self, step: int, speed: float | None = None) -> None:
        """Where training stands."""
        number, resumed = self._attempt
        self._reached = max(self._reached, step)
        self._fields["attempt"] = TrainedSteps(number=number, first_step=resumed + 1, last_step=self._reached)
        if self._plan is None:
            return
        tokens, target = step * self._plan.tokens_per_step, self._plan.tokens
        said: dict[str, Any] = {
            "step": step, "tokens": tokens, "target_tokens": target, "percent": min(100, 100 * tokens // target)
        }  # fmt: skip
        if speed is not None and math.isfinite(speed) and speed > 0:
            said |= {"tokens_per_second": speed, "eta_seconds": max(0.0, (target - tokens) / speed)}
        self._fields["progress"] = Progress(**said)

    def _at_least(self, step: int) -> None:
        """A commit tells that training has come so far: between log steps it is the first to tell."""
        if step > self._reached:
            before = self._fields.get("progress")
            self._stand(step, before.tokens_per_second if before else None)

    def _step(self, record: Mapping[str, Any]) -> None:
        self._stand(record["step"], record["tokens_per_second"])
        self._fields["learning_rate"] = record["learning_rate"]
        self._fields["replay"] = ReplayShare(requested=self._replay_requested, realized=record["replay_share"])

    def _evaluation(self, record: Mapping[str, Any]) -> None:
        sets = []
        for name, line in record["sets"].items():
            if record["step"] == 0:
                self._baseline[name] = line["loss"]
            sets.append(_set(name, line["role"], self._baseline.get(name), line["loss"], line["delta"]))
        self._fields["evaluation"] = sets
        self._fields["forgetting"] = _summary(record["forgetting"])
        self._fields["gain"] = _gain(record["gain"])

    def resumed(self, evaluations: list[dict[str, Any]]) -> None:
        """What earlier attempts had measured."""
        for look in evaluations:
            self._evaluation(finite(look))

    def report(self, report: Mapping[str, Any]) -> None:
        """Takes report.json: the last word on everything that it holds."""
        step = report["checkpoint"]["step"] if report["outcome"] == "Succeeded" else self._reached
        self._fields["outcome"] = report["outcome"]
        if report["outcome"] == "Succeeded" and self._plan:
            self._stand(step, report["throughput"]["tokens_per_second"])
        if report["sets"]:
            self._fields["evaluation"] = [_final(name, line) for name, line in report["sets"].items()]
        self._fields["forgetting"] = _summary(report["forgetting"])
        self._fields["gain"] = _gain(report["gain"])
        self._fields["gates"] = [
            GateResult(name=gate["name"], limit=gate["limit"], value=gate["value"], result=gate["result"])
            for gate in report["gates"]
        ]
        self._fields["promotion"] = Promotion(
            promoted=report["promotion"]["promoted"], reason=report["promotion"]["reason"]
        )
        self._fields["replay"] = ReplayShare(
            requested=report["replay"]["requested"], realized=report["replay"]["realized"]
        )
        if report["tracking"].get("model_version"):
            self._fields["model_version"] = report["tracking"]["model_version"]


def make_report(fields: Mapping[str, Any]) -> Report:
    return Report(**fields)


def _delta(value: Mapping[str, Any] | None) -> Delta | None:
    if not value or value.get("mean") is None or not math.isfinite(value["mean"]):
        return None
    said = {name: value[name] for name in ("mean", "low", "high", "confidence") if value.get(name) is not None}
    return Delta(**{name: number for name, number in said.items() if math.isfinite(number)})


def _set(
    name: str,
    role: str,
    baseline: float | None,
    latest: float | None,
    delta: Mapping[str, Any] | None,
    verdict: str | None = None,
) -> SetEvaluation:
    losses = {"baseline": baseline, "latest": latest}
    said: dict[str, Any] = {key: value for key, value in losses.items() if value is not None and math.isfinite(value)}
    said |= {"delta": _delta(delta), "verdict": verdict}
    return SetEvaluation(set=name, role=role, **{key: value for key, value in said.items() if value is not None})


def _final(name: str, line: Mapping[str, Any]) -> SetEvaluation:
    """A set of report.json."""
    baseline, latest = line["baseline"]["loss"], line["final"]["loss"]
    return _set(name, line["role"], baseline, latest, line["delta"], line["verdict"])


def _summary(value: Mapping[str, Any]) -> ForgettingSummary:
    return ForgettingSummary(max=value["max"], mean=value["mean"])


def _gain(value: Mapping[str, Any]) -> Gain:
    return Gain(mean=value["mean"])

"""Puts what a trainer reported into the status: rounded, so that nothing is written that nobody can see. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from rewarm_api.reported import Report
from rewarm_operator.visit import Json, Visit

_DIGITS = 6
_MOST_SETS = 128
"""As many as the CRD takes: one more, and no status could be written again."""
_AS_THEY_ARE = ("phase", "forgetting", "gain", "gates", "replay")
_ON_FORGETTING = frozenset({"Warn", "RaiseReplay", "Stop", "ForgettingExceeded"})


def fold(visit: Visit, report: Report, number: int) -> None:
    """What the report says replaces what was known; what it does not say stays."""
    said, status = report.to_json(), visit.status
    for name in _AS_THEY_ARE:
        if name in said:
            status[name] = rounded(said[name])
    if "progress" in said:
        status["progress"] = {**status.get("progress", {}), **_progress(said["progress"])}
    if "learningRate" in said:
        status["learningRate"] = _significant(said["learningRate"], _DIGITS)
    if said.get("evaluation"):
        status["evaluation"] = _sets(status.get("evaluation") or [], said["evaluation"])
    if "promotion" in said and not status.get("promotion", {}).get("promoted"):
        # The trainer says whether the candidate may have the alias; only the operator makes it so.
        status["promotion"] = {"promoted": False, "reason": said["promotion"].get("reason", "")}
    if said.get("modelVersion"):
        status.setdefault("tracking", {})["modelVersion"] = said["modelVersion"]
    _fold_checkpoint(visit, said.get("checkpoint") or {})
    _fold_steps(visit, said.get("attempt") or {}, number)
    if report.outcome == "Succeeded":
        visit.say("Evaluated", "True", "Judged", "the candidate was scored against its base on every set")
    _tell_decisions(visit, report)


def _progress(said: Mapping[str, Any]) -> Json:
    found = dict(said)
    if "tokensPerSecond" in found:
        found["tokensPerSecond"] = _significant(found["tokensPerSecond"], 3)
    if "etaSeconds" in found:
        found["etaSeconds"] = round(found["etaSeconds"])
    return found


def _sets(known: list[Json], said: list[Json]) -> list[Json]:
    """By name of the set, known ones in their order."""
    by_name = {str(item["set"]): item for item in known}
    for item in said:
        by_name[str(item["set"])] = {**by_name.get(str(item["set"]), {}), **rounded(item)}
    return list(by_name.values())[:_MOST_SETS]


def _fold_checkpoint(visit: Visit, said: Mapping[str, Any]) -> None:
    """A commit beyond all earlier ones clears the failures: going back and doing the same again is no progress."""
    if not said.get("uri"):
        return
    step, known = int(said.get("step") or 0), visit.status.get("checkpoint") or {}
    if said == known:
        return
    furthest = max(int(known.get("step") or 0), int(visit.status.get("committedStep") or 0))
    if step > furthest and visit.counts.get("failures"):
        visit.counts["failures"] = 0
    visit.status["committedStep"] = max(step, furthest)
    visit.status["checkpoint"] = dict(said)
    visit.say("Checkpointed", "True", "Committed", f"step {step} at {said['uri']}")
    if step != known.get("step"):
        visit.emit("Normal", "CheckpointCommitted", f"step {step} at {said['uri']}")


def _fold_steps(visit: Visit, said: Mapping[str, Any], number: int) -> None:
    if said.get("number") != number:
        return
    entry = attempt(visit.status, number)
    if entry is not None:
        entry |= {name: said[name] for name in ("firstStep", "lastStep", "tokensRecomputed") if name in said}


def attempt(status: Mapping[str, Any], number: int) -> Json | None:
    """The entry of that attempt in a status; None while there is none, or no longer."""
    for entry in status.get("attempts") or ():
        if entry.get("number") == number:
            found: Json = entry
            return found
    return None


def _tell_decisions(visit: Visit, report: Report) -> None:
    """What the trainer changed by itself degrades the run: it goes on, and somebody should know. A warning is told."""
    status: Literal["True", "False"] = "True"
    before = visit.stored_condition("Degraded").get("message")
    if report.decisions:
        newest = report.decisions[-1]
        reason = "ForgettingExceeded" if newest.what in _ON_FORGETTING else newest.what
        message = f"{newest.what} after {newest.tokens} tokens" + (f": {newest.why}" if newest.why else "")
    elif report.warnings:
        status, reason, message = "False", "TrainerWarning", "; ".join(report.warnings[-3:])
    else:
        return
    visit.say("Degraded", status, reason, message)
    if visit.said["Degraded"].message != before:
        visit.emit("Warning", reason, message)


def rounded(value: Any) -> Any:
    """Floats to six significant digits, wherever they stand."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return _significant(value, _DIGITS) if isinstance(value, float) else value


def _significant(value: float, digits: int) -> float:
    if not value or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))

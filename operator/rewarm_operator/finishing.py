"""The end of a run: its verdict, then its place in MLflow, then nothing ever again but promotion and cleaning. Pure.

The verdict never waits for MLflow: Succeeded is written first, Registered once MLflow has everything.
"""

from __future__ import annotations

from typing import Literal

from rewarm_operator import cleaning, conditions, promotion, tracking
from rewarm_operator.actions import Decision
from rewarm_operator.visit import Visit

_GATE_REASONS = {"Pass": "GatesPassed", "Fail": "GatesFailed", "Inconclusive": "GatesInconclusive"}


def complete(visit: Visit) -> None:
    """Trained and judged: Succeeded, whatever the gates say."""
    reason, message = _judge_gates(visit)
    visit.say("Succeeded", "True", reason, message)
    visit.say("Evaluated", "True", "Judged", "the candidate was scored against its base on every set")
    visit.say("Running", "False", "Finished", "")
    visit.status["summary"] = "Succeeded"
    if reason == "GatesPassed":
        visit.emit("Normal", reason, message)
    elif reason != "NoGates":
        visit.emit("Warning", reason, message)
    visit.emit("Normal", "Succeeded", f"trained and judged: {message}")
    promotion.announce(visit, reason)
    _tell_unregistered(visit)


def fail(visit: Visit, reason: str, message: str) -> None:
    """No verdict, and no further attempt."""
    visit.say("Succeeded", "False", reason, message)
    visit.say("Running", "False", "Finished", "")
    visit.said.pop("Stalled", None)
    visit.status["summary"] = "Failed"
    visit.emit("Warning", "Failed", f"{reason}: {message}")
    _tell_unregistered(visit)


def after_the_end(visit: Visit) -> Decision:
    """A finished run: one pass through MLflow, then only an asked promotion and the Jobs' time to live."""
    is_registered = visit.stored_condition("Registered").get("status") in ("True", "False")
    wants_promotion = promotion.is_asked(visit)
    if not is_registered:
        _register(visit)
    elif wants_promotion:
        promotion.follow(visit)
    cleaning.clean_finished(visit)
    if is_registered and not wants_promotion and visit.stored.get("observedGeneration") == visit.generation:
        return Decision(visit.objects_only(), visit.look_again)
    visit.keep_health()
    return visit.decision()


def _judge_gates(visit: Visit) -> tuple[str, str]:
    """The reason of Succeeded, and the condition GatesPassed."""
    gates = (visit.snapshot or {}).get("gates") or {}
    asked = {name for name, limit in gates.items() if limit is not None and name != "onForgetting"}
    results = visit.status.get("gates") or []
    if not asked and not results:
        visit.say("GatesPassed", "Unknown", "NoGates", "without gates nothing is promoted")
        return "NoGates", "no gates were asked for"
    if missing := sorted(asked - {str(gate["name"]) for gate in results}):
        message = f"the verdict on {', '.join(missing)} did not arrive: see report.json beside the checkpoints"
        visit.say("GatesPassed", "Unknown", "GatesInconclusive", message)
        return "GatesInconclusive", message
    worst = next((kind for kind in ("Fail", "Inconclusive") if any(g["result"] == kind for g in results)), "Pass")
    message = "; ".join(f"{g['name']} {g['result']} (limit {g['limit']:g}, {_value(g)})" for g in results)
    status: Literal["True", "False"] = "True" if worst == "Pass" else "False"
    visit.say("GatesPassed", status, _GATE_REASONS[worst], message)
    return _GATE_REASONS[worst], message


def _value(gate: dict[str, object]) -> str:
    value = gate.get("value")
    return f"measured {value:g}" if isinstance(value, (int, float)) else "not measured"


def _tell_unregistered(visit: Visit) -> None:
    if tracking.is_on(visit):
        visit.say("Registered", "Unknown", "Pending", "MLflow is being told")
    else:
        visit.say("Registered", "False", "TrackingOff", "neither the run nor the chart names a tracking server")


def _register(visit: Visit) -> None:
    """Version, alias (only if the gates passed), terminal status: in this order, until MLflow has all of it."""
    if not tracking.is_on(visit):
        _tell_unregistered(visit)
        return
    succeeded = conditions.find(visit.stored, "Succeeded").get("status") == "True"
    registry, known = visit.observed.registry, visit.stored.get("tracking") or {}
    version = str(known.get("modelVersion") or "")
    source = str((visit.stored.get("checkpoint") or {}).get("uri") or "") if succeeded and not version else ""
    alias = str(visit.tracking.get("promoteAlias") or "") if promotion.is_due(visit) and (source or version) else ""
    end: Literal["FINISHED", "FAILED"] = "FINISHED" if succeeded else "FAILED"
    has_version = bool(version or registry.model_version) or not source
    if registry.ended == end and has_version and (not alias or registry.promoted_alias == alias):
        tracking.note(visit)
        _tell_registered(visit, alias)
        return
    visit.after.append(
        tracking.request(
            visit,
            source=source,
            version=version if alias else "",
            alias=alias,
            end=end,
            version_tags=visit.version_tags() if source else None,
        )
    )
    visit.wake(tracking.RETRY_SECONDS)
    if registry.problem:
        visit.say("Registered", "Unknown", "TrackingUnavailable", registry.problem)


def _tell_registered(visit: Visit, alias: str) -> None:
    version = str((visit.status.get("tracking") or {}).get("modelVersion") or "")
    model = visit.tracking.get("registeredModel")
    if not version:
        visit.say("Registered", "False", "NothingToRegister", "the run ended without a model")
        return
    visit.say("Registered", "True", "Registered", f"{model} version {version}")
    if alias:
        promotion.tell(visit, alias, version)

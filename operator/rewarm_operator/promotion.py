"""Who gets the alias: a run whose gates passed, or the version that a person asked for. Pure.

The operator is the only writer of aliases, so there is one file that says when they move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarm_operator import conditions, names, tracking
from rewarm_operator.actions import Annotate
from rewarm_operator.visit import Visit


def announce(visit: Visit, reason: str) -> None:
    """At the verdict: not promoted yet, and why not if it will not be."""
    said = str((visit.status.get("promotion") or {}).get("reason") or "")
    default = {
        "GatesPassed": "all gates pass",
        "NoGates": "no gates: without gates nothing is promoted",
    }.get(reason, "not all gates pass")
    visit.status["promotion"] = {"promoted": False, "reason": said or default}


def is_due(visit: Visit) -> bool:
    """Whether the gates earned this run the alias, and it is no trunk (those are never promoted)."""
    return conditions.find(visit.stored, "GatesPassed").get("status") == "True" and not is_trunk(visit.snapshot or {})


def is_trunk(snapshot: Mapping[str, Any]) -> bool:
    """Whether a run ends at a constant learning rate: Infinite, and neither an anneal nor its last phase lowers it."""
    schedule = snapshot.get("schedule") or {}
    last = ((snapshot.get("phases") or [{}])[-1].get("learningRate")) or {"from": 0, "to": 0}
    is_annealed = schedule.get("annealLength") is not None or last["to"] < last["from"]
    return schedule.get("kind") == "Infinite" and not is_annealed


def record(visit: Visit, alias: str, version: str, why: str) -> None:
    """The alias has moved."""
    model = visit.tracking.get("registeredModel")
    own = str((visit.status.get("tracking") or {}).get("modelVersion") or "")
    visit.status["promotion"] = {
        "promoted": version == own,
        "reason": f"{alias} of {model} is version {version}: {why}",
    }
    visit.emit("Normal", "Promoted", f"{alias} of {model} is version {version} now: {why}")


def tell(visit: Visit, alias: str, version: str) -> None:
    """What came of the promotion that the gates earned."""
    current, model = visit.observed.registry.promoted_version, visit.tracking.get("registeredModel")
    if current == version:
        record(visit, alias, version, "the gates passed")
        return
    now = f"{alias} of {model} is {f'version {current}' if current else 'nobody'} since then, and stays so"
    visit.status["promotion"] = {"promoted": False, "reason": f"version {version} was promoted before; {now}"}


def is_asked(visit: Visit) -> bool:
    return bool(_asked(visit))


def follow(visit: Visit) -> None:
    """Move the alias to the version that the annotation names; `true` stands for this run's own."""
    asked, alias = _asked(visit), str(visit.tracking.get("promoteAlias") or "")
    own = str((visit.stored.get("tracking") or {}).get("modelVersion") or "")
    version = own if asked.lower() == "true" else asked
    if not tracking.is_on(visit) or not version.isdecimal():
        found = f"found {asked!r}, " if not version.isdecimal() and version != own else ""
        expected = "expected true on a run with a registered version, or the number of an older version"
        _refuse(visit, f"{names.PROMOTE_ANNOTATION}: {found}{expected}; not promoted")
        return
    registry, ask = visit.observed.registry, str(visit.run["metadata"].get("resourceVersion", ""))
    if registry.answered == ask and (registry.promoted_alias, registry.promoted_version) != (alias, version):
        model = visit.tracking.get("registeredModel")
        _refuse(visit, f"{names.PROMOTE_ANNOTATION}: {model} has no version {version}; name one that it has")
    elif registry.answered == ask:
        if not (visit.stored.get("promotion") or {}).get("reason", "").endswith(_by_hand(version)):
            record(visit, alias, version, _by_hand(version))
        visit.after.append(Annotate({names.PROMOTE_ANNOTATION: None}))
    else:
        visit.after.append(tracking.request(visit, version=version, alias=alias, ask=ask))
        visit.wake(tracking.RETRY_SECONDS)


def _by_hand(version: str) -> str:
    return f"asked for by {names.PROMOTE_ANNOTATION} ({version})"


def _refuse(visit: Visit, message: str) -> None:
    visit.status["promotion"] = {**(visit.status.get("promotion") or {"promoted": False}), "reason": message}
    visit.emit("Warning", "PromotionRefused", message)
    visit.after.append(Annotate({names.PROMOTE_ANNOTATION: None}))


def _asked(visit: Visit) -> str:
    return str((visit.run["metadata"].get("annotations") or {}).get(names.PROMOTE_ANNOTATION) or "").strip()

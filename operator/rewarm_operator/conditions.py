"""Conditions as Kubernetes means them: all types from the first visit, a time that moves only with the status. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewarm_api.messages import one_line
from rewarm_api.status import CONDITION_TYPES

NORMALLY_FALSE = ("Suspended", "Stalled", "Degraded")
_NOT_YET = "NotYetKnown"


class Fact(NamedTuple):
    """What a visit found out about one condition."""

    status: str
    reason: str
    message: str = ""


def find(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type in a status; empty when it is not there."""
    for each in status.get("conditions") or ():
        if each.get("type") == kind:
            found: Mapping[str, Any] = each
            return found
    return {}


def is_finished(status: Mapping[str, Any]) -> bool:
    """Succeeded is True or False: it never changes back."""
    return find(status, "Succeeded").get("status") in ("True", "False")


def write(
    status: dict[str, Any],
    facts: Mapping[str, Fact],
    generation: int,
    now: str,
    types: Sequence[str] = CONDITION_TYPES,
) -> None:
    """Put what was found into `status`: known types in their order, then anybody else's as they are."""
    known = {str(each.get("type")): dict(each) for each in status.get("conditions") or ()}
    written = [_one(kind, known.pop(kind, None), facts.get(kind), generation, now) for kind in types]
    status["conditions"] = written + list(known.values())


def _one(kind: str, before: dict[str, Any] | None, fact: Fact | None, generation: int, now: str) -> dict[str, Any]:
    if kind == "Succeeded" and before is not None and before.get("status") in ("True", "False"):
        fact = None
    if fact is None:
        condition = before or {"type": kind, "status": "Unknown", "reason": _NOT_YET, "message": ""}
    else:
        message = one_line(fact.message, 1000)
        condition = {"type": kind, "status": fact.status, "reason": fact.reason, "message": message}
    same = before is not None and before.get("status") == condition["status"]
    moved = str(before.get("lastTransitionTime") or now) if same and before is not None else now
    return {**condition, "lastTransitionTime": moved, "observedGeneration": generation}

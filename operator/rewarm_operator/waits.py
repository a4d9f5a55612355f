"""Says in conditions what a run waits for: a person's word, a missing thing, a node. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rewarm_operator import attempts, moments, pods
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

PATIENCE_SECONDS = 300
"""How long a pod may wait for a node before that is called a stall: an autoscaler needs minutes."""


def tell_waiting(visit: Visit, members: Sequence[Object]) -> None:
    """What keeps these pods from running, if anything is known to."""
    found = pods.waiting(members)
    if found is None:
        return
    visit.say("Running", "False", found.reason, found.message)
    if found.needs_help:
        visit.say("Stalled", "True", found.reason, found.message)
        return
    made = (moments.parse(pod["metadata"].get("creationTimestamp")) for pod in members)
    oldest = min(filter(None, made), default=None)
    wait = attempts.due_after(oldest, PATIENCE_SECONDS, visit.now)
    if wait > 0:
        visit.wake(wait)
    else:
        visit.say("Stalled", "True", found.reason, found.message)


def tell_suspended(visit: Visit) -> None:
    """The run stands still because somebody asked for it."""
    visit.say("Suspended", "True", "Suspended", "spec.suspend is true: set it to false to go on")
    visit.say("Running", "False", "Suspended", "")
    visit.say("Stalled", "False", "Suspended", "")
    visit.status["summary"] = "Suspended"
    if visit.stored_condition("Suspended").get("status") != "True":
        visit.emit("Normal", "Suspended", "spec.suspend is true: what is committed stays, machines are given back")


def tell_resumed(visit: Visit) -> None:
    if visit.is_suspended:
        return
    visit.say("Suspended", "False", "NotSuspended", "")
    if visit.stored_condition("Suspended").get("status") == "True":
        visit.emit("Normal", "Resumed", "spec.suspend is false: the run goes on")

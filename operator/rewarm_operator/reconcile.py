"""Decides what should happen next to one run, from what is observed alone. Pure; the shell executes it.

Level-based: never from the event, nor from what an earlier decision meant to do. Executing a decision twice changes
nothing, and when nothing is to be done it is empty.

    deleted? -> deletion    finished? -> finishing    invalid? -> SpecValid=False    suspended before it began? -> wait
    finalizer -> snapshot + counts (one write) -> ConfigMap, Service, prepare Job -> attempt 1 -> end -> attempt n+1 ...
"""

from __future__ import annotations

from rewarm_operator import (
    admission,
    conditions,
    deletion,
    finishing,
    names,
    objects,
    preparation,
    running,
    tracking,
    waits,
)
from rewarm_operator.actions import Decision, SetFinalizer
from rewarm_operator.observed import Observed
from rewarm_operator.settings import Settings
from rewarm_operator.visit import Visit


def decide(observed: Observed, settings: Settings) -> Decision:
    """What to do now, in order, and when to look again although nothing changed."""
    visit = Visit(observed, settings)
    if observed.run["metadata"].get("deletionTimestamp"):
        return deletion.decide(visit)
    if conditions.is_finished(visit.stored):
        return finishing.after_the_end(visit)
    is_valid = admission.admit(visit)
    if "snapshotDigest" not in visit.stored:
        if not is_valid or visit.is_suspended:
            return _not_yet(visit, is_valid)
        if names.FINALIZER not in (observed.run["metadata"].get("finalizers") or ()):
            return Decision((SetFinalizer(),), requeue_after=0.0)
        admission.take_snapshot(visit)
        has_snapshot = True
    else:
        has_snapshot = admission.keep_snapshot(visit)
    _advance(visit, may_start=is_valid and has_snapshot)
    return visit.decision()


def _not_yet(visit: Visit, is_valid: bool) -> Decision:
    """Before the snapshot: no side effect, and everything can still be edited."""
    visit.status["summary"] = "Pending"
    if is_valid:
        waits.tell_suspended(visit)
    else:
        visit.say("Running", "False", "InvalidSpec", "")
    visit.keep_health()
    return visit.decision()


def _advance(visit: Visit, *, may_start: bool) -> None:
    waits.tell_resumed(visit)
    if may_start and visit.observed.service is None:
        visit.create(objects.service(visit.run))
    if preparation.advance(visit, may_start=may_start):
        running.advance(visit, may_start=may_start)
    tracking.begin(visit)
    visit.keep_health()

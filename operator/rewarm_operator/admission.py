"""Whether a spec may be acted upon, and its snapshot: taken once, stored once, never computed again. Pure."""

from __future__ import annotations

from rewarm_api.errors import Problem
from rewarm_operator import objects, snapshots
from rewarm_operator.visit import Visit

_STILL_EDITABLE = (
    "spec.compute", "spec.retries", "spec.gates.onForgetting", "spec.activeDeadlineSeconds",
    "spec.ttlSecondsAfterFinished", "spec.suspend", "spec.training.globalBatchTokens",
)  # fmt: skip
"""What can be wrong after the snapshot. The batch cannot be edited then, but may not fit a new number of processes."""


def admit(visit: Visit) -> bool:
    """Say SpecValid. False: nothing new may be started; what runs goes on.

    Until the snapshot is taken an edit mends the run. After that only operation can change (nodes, retries): it is
    checked once per generation, and the rest never again, since nobody could mend what a newer release finds in it.
    """
    known, is_taken = visit.stored_condition("SpecValid"), "snapshotDigest" in visit.stored
    if is_taken and known.get("status") == "True" and known.get("observedGeneration") == visit.generation:
        return True
    problems = snapshots.resolved(visit.run, visit.settings).problems
    if is_taken:
        problems = tuple(filter(_can_be_mended, problems))
    if not problems:
        visit.say("SpecValid", "True", "Valid", "")
        return True
    message = "; ".join(map(str, problems))
    visit.say("SpecValid", "False", "InvalidSpec", message)
    if visit.stored_condition("Running").get("status") != "True":
        visit.say("Stalled", "True", "SpecInvalid", message)
    if known.get("status") != "False" or known.get("message") != visit.said["SpecValid"].message:
        visit.emit("Warning", "SpecInvalid", message)
    return False


def _can_be_mended(problem: Problem) -> bool:
    return problem.field.startswith(_STILL_EDITABLE)


def take_snapshot(visit: Visit) -> None:
    """One write says which experiment this is and that its first attempt may be made; the ConfigMap follows it."""
    snapshot = snapshots.resolved(visit.run, visit.settings).snapshot
    assert snapshot is not None, "only a valid run gets a snapshot"
    visit.status["snapshotDigest"] = snapshot["digest"]
    visit.status["counts"] = {"attempts": 1, "failures": 0, "disruptions": 0}
    visit.emit("Normal", "SnapshotTaken", f"{snapshot['digest']}: from here on the experiment is immutable")
    visit.create(objects.config_map(visit.run, snapshot))


def keep_snapshot(visit: Visit) -> bool:
    """The ConfigMap is there, or is made again if that gives the same experiment. False: it is lost."""
    snapshot = visit.snapshot
    if snapshot is not None:
        if visit.observed.config_map is None:
            visit.create(objects.config_map(visit.run, snapshot))
        return True
    message = (
        f"ConfigMap {visit.name} does not hold snapshot {visit.status.get('snapshotDigest')}, and the spec does not "
        "give it again: restore the ConfigMap (where the spec gives it: delete it), or submit the run anew"
    )
    visit.say("Degraded", "True", "SnapshotLost", message)
    visit.say("Stalled", "True", "SnapshotLost", message)
    return False

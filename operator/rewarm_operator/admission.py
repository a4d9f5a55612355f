"""Whether a spec may be acted upon, and its snapshot: taken once, stored once, never computed again. Pure."""

from __future__ import annotations

from rewarm_operator import objects, snapshots
from rewarm_operator.visit import Visit


def admit(visit: Visit) -> bool:
    """Say SpecValid. False: nothing new may be started; what runs goes on.

    Until the snapshot is taken an edit mends the run. After that only operation can change (nodes, retries), and it is
    checked once per generation.
    """
    known, is_taken = visit.stored_condition("SpecValid"), "snapshotDigest" in visit.stored
    if is_taken and known.get("status") == "True" and known.get("observedGeneration") == visit.generation:
        return True
    found = snapshots.resolved(visit.run, visit.settings)
    if not found.problems or (is_taken and found.lacks_default):
        visit.say("SpecValid", "True", "Valid", "")
        return True
    message = "; ".join(map(str, found.problems))
    visit.say("SpecValid", "False", "InvalidSpec", message)
    if known.get("status") != "False" or known.get("message") != visit.said["SpecValid"].message:
        visit.emit("Warning", "SpecInvalid", message)
    return False


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

"""What Kueue says about a Job: its Workload, as the condition Admitted. Pure; works without Kueue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit


def tell_admission(visit: Visit, job: Object | None) -> bool:
    """Say whether the run may use its machines. False while Kueue holds the Job back."""
    queue = visit.compute.queue
    if queue is None:
        visit.say("Admitted", "True", "NoQueue", "the run names no queue")
        return True
    if not visit.observed.kueue_installed:
        message = f"queue {queue}: there is no Kueue here, so nothing waits"
        visit.say("Admitted", "False", "KueueNotInstalled", message)
        if visit.stored_condition("Admitted").get("reason") != "KueueNotInstalled":
            visit.emit("Warning", "KueueNotInstalled", message)
        return True
    workload = None if job is None else _workload_of(visit, job)
    conditions = {} if workload is None else _conditions(workload)
    admitted = conditions.get("Admitted") or {}
    if admitted.get("status") == "True":
        visit.say("Admitted", "True", "Admitted", f"by queue {queue}")
        return True
    if job is not None and workload is None and not (job.get("spec") or {}).get("suspend"):
        visit.say("Admitted", "True", "NotHeld", f"queue {queue}: Kueue does not hold this Job")
        return True
    why = conditions.get("QuotaReserved") or conditions.get("Evicted") or {}
    reason = str(why.get("reason") or "Queued")
    message = str(why.get("message") or f"waits in queue {queue}")
    if queue not in message:
        message = f"queue {queue}: {message}"
    visit.say("Admitted", "False", reason, message)
    if reason == "Inadmissible" or "doesn't exist" in message or "inactive" in message or "is stopped" in message:
        visit.say("Stalled", "True", "QueueNotReady", message)
    return False


def _workload_of(visit: Visit, job: Object) -> Object | None:
    uid = job["metadata"]["uid"]
    for workload in visit.observed.workloads:
        if any(owner.get("uid") == uid for owner in workload["metadata"].get("ownerReferences") or ()):
            return workload
    return None


def _conditions(workload: Object) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("type")): each for each in (workload.get("status") or {}).get("conditions") or ()}

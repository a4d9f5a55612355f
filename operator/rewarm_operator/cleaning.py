"""Which Jobs of a run go: those that still hold pods of an ended attempt, old ones, and all when their time is over.

Pure. A deleted Job takes its pods and their logs with it, so the newest ones stay.
"""

from __future__ import annotations

from rewarm_operator import attempts, conditions, moments, names, reports
from rewarm_operator.actions import DeleteJob
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

KEPT_JOBS = 3
ENDS_BY_ITSELF_SECONDS = 120.0
"""Rank 0 tells that an attempt is complete; the others leave a moment later, and then its Job stays, with its logs."""


def delete(visit: Visit, job: Object) -> None:
    """Once: a Job that is going already is left to go."""
    metadata = job["metadata"]
    if "deletionTimestamp" not in metadata:
        visit.deletes.append(DeleteJob(str(metadata["name"]), str(metadata["uid"])))


def clean(visit: Visit, live: int | None) -> None:
    """Delete the Jobs of ended attempts that still hold pods, and all but the newest 3; `live` is spared."""
    numbers = sorted({*visit.attempt_jobs, *(() if live is None else (live,))}, reverse=True)
    kept = numbers[:KEPT_JOBS]
    for number, job in visit.attempt_jobs.items():
        is_spared = number == live or _is_leaving(visit, number, job)
        if not is_spared and (number not in kept or not attempts.is_over(job)):
            delete(visit, job)


def clean_finished(visit: Visit) -> None:
    """After the end no Job is live, and `ttlSecondsAfterFinished` counts from the verdict."""
    ended = moments.parse(conditions.find(visit.stored, "Succeeded").get("lastTransitionTime")) or visit.now
    lifetime = visit.spec.get("ttlSecondsAfterFinished")
    wait = None if lifetime is None else attempts.due_after(ended, float(lifetime), visit.now)
    if wait == 0:
        for job in visit.observed.jobs:
            delete(visit, job)
        return
    clean(visit, None)
    for job in visit.observed.jobs:
        if job["metadata"]["name"] == names.prepare_job(visit.name) and not attempts.is_over(job):
            delete(visit, job)
    if visit.observed.jobs:
        visit.wake(wait)


def _is_leaving(visit: Visit, number: int, job: Object) -> bool:
    """The attempt completed, and the last of its pods are about to leave by themselves."""
    entry = reports.attempt(visit.status, number) or {}
    if entry.get("cause") != "Completed" or attempts.is_over(job):
        return False
    patience = attempts.due_after(moments.parse(entry.get("endTime")), ENDS_BY_ITSELF_SECONDS, visit.now)
    if patience:
        visit.wake(patience)
    return patience > 0

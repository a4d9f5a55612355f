"""Which Jobs of a run go: those that still hold pods of an ended attempt, old ones, and all when their time is over.

Pure. A deleted Job takes its pods and their logs with it, so the newest ones stay.
"""

from __future__ import annotations

from rewarm_operator import attempts, conditions, moments, names
from rewarm_operator.actions import DeleteJob
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

KEPT_JOBS = 3


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
        if number != live and (number not in kept or not attempts.is_over(job)):
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

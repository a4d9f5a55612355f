"""The attempts of a run: the one that should exist now, and what is seen of it. Pure.

`counts.attempts` is written before an attempt's Job is posted and its entry once the Job was seen; so a number without
entry and without a trace of its Job was never posted, and one with an entry or a trace and no Job was taken away.
"""

from __future__ import annotations

from dataclasses import replace

from rewarm_operator import (
    attempts,
    cleaning,
    ending,
    finishing,
    hangs,
    kueue,
    moments,
    names,
    pods,
    reports,
    starting,
    waits,
)
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

_EVALUATING = frozenset({"baseline", "evaluating", "benchmarking"})


def advance(visit: Visit, *, may_start: bool) -> None:
    """Bring the attempts one step on."""
    number = max([int(visit.counts.get("attempts") or 1), *visit.attempt_jobs])
    visit.counts["attempts"] = number
    entry = reports.attempt(visit.status, number)
    job = visit.attempt_jobs.get(number)
    if entry is None and job is None and not _was_posted(visit, number):
        _first_post(visit, number, may_start=may_start)
    elif entry is None or not entry.get("cause"):
        _watch(visit, number, job, may_start=may_start)
    else:
        _between(visit, number, may_start=may_start)
    still_open = not (reports.attempt(visit.status, number) or {}).get("cause")
    posted = int(visit.counts["attempts"])
    cleaning.clean(visit, number if still_open else posted if posted != number else None)


def _was_posted(visit: Visit, number: int) -> bool:
    """Whether the Job of a number without entry was there, and somebody has deleted it."""
    if names.attempt_job(visit.name, number) in visit.observed.seen_jobs:
        return True
    # Pods that stay are those of a Job that the next watch event brings.
    return any("deletionTimestamp" in pod["metadata"] for pod in pods.of_attempt(number, visit.observed.pods))


def _first_post(visit: Visit, number: int, *, may_start: bool) -> None:
    if visit.is_suspended:
        waits.tell_suspended(visit)
    elif may_start:
        starting.post(visit, number)


def _between(visit: Visit, number: int, *, may_start: bool) -> None:
    if visit.is_suspended:
        ending.fold_last_words(visit, number)
        waits.tell_suspended(visit)
    else:
        ending.go_on(visit, number, may_start=may_start)


def _watch(visit: Visit, number: int, job: Object | None, *, may_start: bool) -> None:
    """An attempt without a recorded end: it runs, or it has ended just now."""
    if job is not None and reports.attempt(visit.stored, number) is None:
        ending.open_entry(visit, number, job)
        visit.emit("Normal", "AttemptStarted", f"attempt {number}: Job {job['metadata']['name']}")
    _fold_heartbeat(visit, number, job)
    end = _end(visit, number, job)
    if end is not None:
        ending.record(visit, number, end)
        _check_deadline(visit)
        if "Succeeded" not in visit.said:
            _between(visit, number, may_start=may_start)
        return
    assert job is not None
    _tell_running(visit, number, job)


def _end(visit: Visit, number: int, job: Object | None) -> attempts.End | None:
    """How the attempt ended; None while it goes on."""
    is_judged = visit.is_true("Evaluated")
    if job is None or "deletionTimestamp" in job["metadata"]:
        members = pods.of_attempt(number, visit.observed.pods)
        return attempts.vanished(members, visit.now, finished_by_record=is_judged)
    end = visit.end_of(job, finished_by_record=is_judged)
    if end is not None:
        return end
    if attempts.has_verdict(job):
        return None
    if visit.is_suspended:
        return attempts.End("Suspended", "spec.suspend is true", visit.now)
    if (job.get("spec") or {}).get("suspend"):
        return None  # Kueue has taken the machines back: whoever is silent now is meant to be.
    if is_judged:
        hang = hangs.end(visit, number, job)
        return None if hang is None else replace(hang, cause="Completed")
    return _out_of_time(visit) or hangs.end(visit, number, job)


def _fold_heartbeat(visit: Visit, number: int, job: Object | None) -> None:
    heartbeat = hangs.heartbeat(visit, number, job)
    if heartbeat is not None:
        visit.has_heard = True
        reports.fold(visit, heartbeat.report, number)


def training_seconds(visit: Visit) -> float:
    """Seconds that all pods of the run ran, over all attempts, without waiting."""
    running = visit.stored_condition("Running")
    since = moments.parse(running.get("lastTransitionTime")) if running.get("status") == "True" else None
    now = 0.0 if since is None else max(0.0, moments.seconds_between(since, visit.now))
    return float(visit.stored.get("trainingSeconds") or 0) + now


def _out_of_time(visit: Visit) -> attempts.End | None:
    limit = visit.spec.get("activeDeadlineSeconds")
    if limit is None or visit.stored_condition("Running").get("status") != "True":
        return None
    left = float(limit) - training_seconds(visit)
    if left > 0:
        visit.wake(left)
        return None
    return attempts.End("Suspended", _deadline_words(limit), visit.now)


def _check_deadline(visit: Visit) -> None:
    """Training time that is spent ends the run, however the attempt ended."""
    limit = visit.spec.get("activeDeadlineSeconds")
    is_open = "Succeeded" not in visit.said and not visit.is_true("Evaluated")
    if limit is not None and is_open and training_seconds(visit) >= float(limit):
        finishing.fail(visit, "DeadlineExceeded", _deadline_words(limit))


def _deadline_words(limit: object) -> str:
    return f"it trained for longer than activeDeadlineSeconds ({limit})"


def _tell_running(visit: Visit, number: int, job: Object) -> None:
    members = pods.owned_by(job, visit.observed.pods)
    admitted = kueue.tell_admission(visit, job)
    nodes = int((job.get("spec") or {}).get("completions") or 1)
    starts = [pods.running_since(pod) for pod in members]
    is_held = bool((job.get("spec") or {}).get("suspend"))
    if len(members) == nodes and all(starts) and not is_held:
        visit.say("Running", "True", "Training", f"attempt {number} on {nodes} node{'s' if nodes > 1 else ''}")
        visit.status["summary"] = _activity(visit)
        return
    # The kubelet tells the end of a container a moment before the end of its pod.
    ended = [pod for pod in members if pods.is_terminal(pod) or pods.ended(pod) is not None]
    was_running = visit.stored_condition("Running").get("status") == "True"
    if was_running and is_held:
        visit.emit("Warning", "Preempted", f"attempt {number}: Kueue has taken its machines back, and it queues again")
    elif was_running and ended:
        return  # Some ranks have ended and the Job has not said so yet: the next visit tells.
    visit.status.pop("phase", None)
    visit.status["summary"] = "Starting" if admitted else "Queued"
    visit.say("Running", "False", "Starting" if admitted else "Queued", f"attempt {number}")
    stalled, before = visit.stored_condition("Stalled"), reports.attempt(visit.status, number - 1) or {}
    if stalled.get("reason") == before.get("cause") and before.get("cause") in attempts.WAITS_FOR_INPUT:
        # What was missing stays in sight while it is looked for again.
        visit.say("Stalled", "True", str(stalled["reason"]), str(stalled.get("message") or ""))
    if not is_held:
        waits.tell_waiting(visit, members, job)


def _activity(visit: Visit) -> str:
    activity = str((visit.status.get("phase") or {}).get("activity") or "")
    return "Evaluating" if activity.lower() in _EVALUATING else "Training"

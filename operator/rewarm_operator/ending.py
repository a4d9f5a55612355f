"""The end of an attempt: its record, what it costs, and whether there is another. Pure.

Everything about an end is one write of the status: entry, cause, counts. Only then is a Job deleted or posted, so there
is no attempt without a cause, and an end is counted once wherever the operator died.
"""

from __future__ import annotations

from rewarm_operator import attempts, finishing, moments, pods, reports, starting
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

SHOWN_ATTEMPTS = 10


def record(visit: Visit, number: int, end: attempts.End) -> None:
    """Write down how attempt `number` ended, and finish the run or go on to the next attempt."""
    if end.termination is not None and end.termination.report is not None:
        reports.fold(visit, end.termination.report, number)
    entry = open_entry(visit, number, visit.attempt_jobs.get(number))
    entry["cause"], entry["endTime"] = end.cause, moments.written(end.at)
    visit.status.pop("phase", None)
    visit.say("Running", "False", end.cause, end.message)
    budget = attempts.budget_of(end.cause)
    if budget:
        visit.counts[budget] = visit.counts.get(budget, 0) + 1
    if end.cause == "Completed":
        finishing.complete(visit)
        return
    _tell_end(visit, number, end)
    over = over_budget(visit, end.cause)
    if end.cause in attempts.ENDS_THE_RUN or over:
        finishing.fail(visit, end.cause, f"attempt {number}: {end.message}{over}")


def open_entry(visit: Visit, number: int, job: Object | None) -> dict[str, object]:
    """The entry of an attempt that was made; the newest 10 are shown."""
    entry = reports.attempt(visit.status, number)
    if entry is None:
        made = None if job is None else moments.parse(job["metadata"].get("creationTimestamp"))
        entry = {"number": number, "startTime": moments.written(made or visit.now)}
        visit.status["attempts"] = [*(visit.status.get("attempts") or ()), entry][-SHOWN_ATTEMPTS:]
    return entry


def over_budget(visit: Visit, cause: str) -> str:
    """Why there is no further attempt, as the rest of a sentence; empty while the budget lasts."""
    counts, retries = visit.counts, visit.retries
    if attempts.budget_of(cause) == "failures" and counts.get("failures", 0) > retries.max_failures:
        spent = f"{counts['failures']} failures since the last new commit"
        return f" ({spent}, retries.maxFailures is {retries.max_failures})"
    if attempts.budget_of(cause) == "disruptions" and counts.get("disruptions", 0) > retries.max_disruptions:
        return f" ({counts['disruptions']} disruptions, retries.maxDisruptions is {retries.max_disruptions})"
    return ""


def go_on(visit: Visit, number: int, *, may_start: bool) -> None:
    """After an end that was not the last: the next attempt, as soon as it is due."""
    entry = reports.attempt(visit.status, number) or {}
    cause, ended = str(entry.get("cause") or ""), moments.parse(entry.get("endTime"))
    fold_last_words(visit, number)
    visit.status["summary"] = "Starting" if cause == "Suspended" else "Retrying"
    if cause in attempts.WAITS_FOR_INPUT:
        missing = visit.stored_condition("Running")
        message = visit.said["Running"].message if "Running" in visit.said else str(missing.get("message") or cause)
        visit.say("Stalled", "True", cause, message)
    in_a_row = attempts.ends_in_a_row(visit.status.get("attempts") or ())
    wait = attempts.due_after(ended, attempts.backoff(cause, in_a_row, visit.uid), visit.now)
    if cause == "Suspended":
        wait = max(wait, _seconds_until_gone(visit, number))
    if wait > 0:
        visit.wake(wait)
    elif may_start:
        starting.post(visit, number + 1)


def _tell_end(visit: Visit, number: int, end: attempts.End) -> None:
    if end.cause in attempts.WAITS_FOR_INPUT:
        return  # Told as a stall: in words without a number, so that a hundred tries are one Event.
    visit.emit("Normal" if end.cause == "Suspended" else "Warning", end.cause, f"attempt {number} ended: {end.message}")


def fold_last_words(visit: Visit, number: int) -> None:
    """A suspended trainer commits after its Job is deleted: what rank 0 says last still counts.

    Its pod may be gone before anybody reads its termination message; what it posted when it committed is not.
    """
    heartbeat = visit.observed.heartbeat
    if heartbeat is not None and heartbeat.attempt == number:
        reports.fold(visit, heartbeat.report.model_copy(update={"phase": None}), number)
        visit.status.pop("phase", None)
    for pod in pods.of_attempt(number, visit.observed.pods):
        ended = pods.ended(pod) if pods.index(pod) == 0 else None
        said = None if ended is None else ended.termination
        if said is not None and said.report is not None:
            reports.fold(visit, said.report.model_copy(update={"phase": None}), number)
            visit.status.pop("phase", None)


def _seconds_until_gone(visit: Visit, number: int) -> float:
    """How long to wait for pods that are still committing; 0 when all have ended, or are lost."""
    margin = visit.settings.stuck_margin_seconds
    lost = [
        pods.lost_at(pod, margin) for pod in pods.of_attempt(number, visit.observed.pods) if not pods.is_terminal(pod)
    ]
    waits = [float(margin) if at is None else moments.seconds_between(visit.now, at) for at in lost]
    return max(waits, default=0.0)

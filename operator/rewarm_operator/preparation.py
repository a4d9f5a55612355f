"""Before the first attempt: one Job on the CPU turns text into shards and pins what only the data can tell. Pure.

Its name is fixed, so a retry deletes and makes it again. Each Job carries the counts of its making (`spent`): an end is
counted only while they still stand, so once, wherever the operator died.
"""

from __future__ import annotations

from rewarm_api.reported import Termination
from rewarm_operator import attempts, cleaning, ending, finishing, hangs, kueue, names, objects, pods, starting, waits
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit


def advance(visit: Visit, *, may_start: bool) -> bool:
    """Whether the data is ready; if not, see to it that it becomes so."""
    if visit.stored_condition("DataReady").get("status") == "True":
        return True
    job = visit.job(names.prepare_job(visit.name))
    if job is not None and attempts.is_over(job) and pods.condition(job, "Complete"):
        _tell_ready(visit, job)
        return True
    if visit.attempt_jobs or visit.status.get("attempts"):
        visit.say("DataReady", "True", "Prepared", "an attempt was made with it")
        return True
    visit.status["summary"] = "Preparing"
    visit.say("Running", "False", "Preparing", "")
    if visit.is_suspended:
        visit.say("DataReady", "False", "Suspended", "preparation goes on when the run does")
        waits.tell_suspended(visit)
        if job is not None:
            cleaning.delete(visit, job)
    elif job is None:
        _tell_preparing(visit, None)
        if may_start:
            _post(visit, tries=0)
    elif "deletionTimestamp" not in job["metadata"]:
        _watch(visit, job, may_start=may_start)
    return False


def _watch(visit: Visit, job: Object, *, may_start: bool) -> None:
    end = visit.end_of(job)
    if end is None and hangs.heartbeat(visit, 0, job) is not None:
        # Only one that has spoken can fall silent: an image of one's own may prepare without a word.
        end = hangs.end(visit, 0, job)
    if end is None:
        _tell_preparing(visit, job)
        if not (job.get("spec") or {}).get("suspend"):
            waits.tell_waiting(visit, pods.owned_by(job, visit.observed.pods), job)
    elif end.cause == "Completed":
        _tell_preparing(visit, job)
        visit.wake(attempts.SETTLE_SECONDS)
    else:
        _retry(visit, job, end, may_start=may_start)


def _retry(visit: Visit, job: Object, end: attempts.End, *, may_start: bool) -> None:
    visit.say("DataReady", "False", end.cause, end.message)
    if visit.stored_condition("DataReady").get("reason") != end.cause:
        visit.emit("Warning", end.cause, f"preparation: {end.message}")
    spent = attempts.spent(job)
    budget = attempts.budget_of(end.cause)
    if budget and visit.counts.get(budget, 0) == spent.get(budget, 0):
        visit.counts[budget] = visit.counts.get(budget, 0) + 1
    over = ending.over_budget(visit, end.cause)
    if end.cause in attempts.ENDS_THE_RUN or over:
        finishing.fail(visit, end.cause, f"preparation: {end.message}{over}")
        return
    if end.cause in attempts.WAITS_FOR_INPUT:
        visit.say("Stalled", "True", end.cause, end.message)
    tries = spent.get("tries", 0) + 1
    wait = attempts.due_after(end.at, attempts.backoff(end.cause, tries, visit.uid), visit.now)
    if wait > 0:
        visit.wake(wait)
    elif may_start:
        cleaning.delete(visit, job)
        _post(visit, tries=tries)


def _post(visit: Visit, *, tries: int) -> None:
    counts = visit.counts
    spent = {"failures": counts.get("failures", 0), "disruptions": counts.get("disruptions", 0), "tries": tries}
    visit.create(objects.prepare_job(starting.pod_facts(visit, 0), spent))


def _tell_preparing(visit: Visit, job: Object | None) -> None:
    admitted = kueue.tell_admission(visit, job)
    if not admitted:
        visit.status["summary"] = "Queued"
    known = visit.stored_condition("DataReady")
    if known.get("reason") in attempts.WAITS_FOR_INPUT:
        # What was missing stays in sight while it is looked for again.
        visit.say("Stalled", "True", str(known["reason"]), str(known.get("message") or ""))
        return
    visit.say("DataReady", "False", "Preparing", "text is being turned into shards, and pinned")


def _tell_ready(visit: Visit, job: Object) -> None:
    said = next((e.termination for p in pods.owned_by(job, visit.observed.pods) if (e := pods.ended(p))), None)
    message = _summary(said)
    visit.say("DataReady", "True", "Prepared", message)
    visit.emit("Normal", "DataPrepared", message or "shards and pins are there")


def _summary(said: Termination | None) -> str:
    if said is None or said.pins is None:
        return ""
    pins = said.pins
    return f"{pins.tokens} tokens in {pins.steps} steps from {len(pins.sources)} sources; pins at {pins.uri}"

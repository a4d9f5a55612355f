"""The fit of a study: one Job on the CPU, tried again as preparation is, and what its pod said at its end. Pure.

Its name is fixed, so a retry deletes and makes it again; each Job carries how often it was tried before.
"""

from __future__ import annotations

from typing import Any

from rewarm_api.frozen import digest_of
from rewarm_api.study_status import StudyResult
from rewarm_operator import attempts, names, objects, pods, waits
from rewarm_operator.actions import DeleteJob
from rewarm_operator.observed import Object
from rewarm_operator.pod_objects import PodFacts
from rewarm_operator.study_plans import manifest_text
from rewarm_operator.study_visit import StudyVisit


def advance(visit: StudyVisit) -> None:
    """Have it done, and tell what came of it."""
    visit.status["summary"] = "Fitting"
    job = visit.job(names.fit_job(visit.name))
    if job is None:
        _tell_fitting(visit)
        _post(visit, {})
    elif "deletionTimestamp" in job["metadata"]:
        _tell_fitting(visit)
    elif (job["metadata"].get("annotations") or {}).get(names.MADE_AS_ANNOTATION) != digest_of(_text(visit)):
        # Asked before an edit: of another grid, or another tolerance.
        _tell_fitting(visit)
        _replace(visit, job, {})
    else:
        _watch(visit, job)


def _watch(visit: StudyVisit, job: Object) -> None:
    end = visit.end_of(job)
    if end is None:
        _tell_fitting(visit)
        if not (job.get("spec") or {}).get("suspend"):
            waits.tell_waiting(visit, pods.owned_by(job, visit.observed.pods), job)
        return
    said = end.termination.study if end.termination is not None else None
    if end.cause != "Completed":
        _retry(visit, job, end)
    elif said is None:
        # Its pod went before anybody could read what it said: it finds its artefact again and says it again.
        _retry(visit, job, attempts.End("Unknown", "its pod is gone, and what it found with it", end.at))
    else:
        _succeed(visit, said)


def _succeed(visit: StudyVisit, said: StudyResult) -> None:
    value = said.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    for name in ("answers", "artefact", "warnings"):
        if value.get(name):
            visit.status[name] = value[name]
    visit.status["summary"] = "Succeeded"
    visit.say("Running", "False", "Finished")
    last = said.answers.largest_share[-1] if said.answers.largest_share else None
    if last is None or last.replay_ratio is None:
        reason = "NoRatio"
        message = (last and last.why) or f"see {said.artefact.uri}"
    else:
        visit.status["replayRatio"] = last.replay_ratio
        reason = "Answered"
        where = " ".join(filter(None, (f"{last.tokens} tokens" if last.tokens else "", last.model)))
        message = f"{last.replay_ratio:g} replay keeps {last.tolerance}" + (f" ({where})" if where else "")
    visit.say("Succeeded", "True", reason, message)
    visit.emit("Normal", "Succeeded", message)


def _retry(visit: StudyVisit, job: Object, end: attempts.End) -> None:
    words = f"fit: {end.message}"
    spent = attempts.spent(job)
    budget = attempts.budget_of(end.cause)
    if budget:
        spent[budget] = spent.get(budget, 0) + 1
    spent["tries"] = spent.get("tries", 0) + 1
    limits = {"failures": visit.retries.max_failures, "disruptions": visit.retries.max_disruptions}
    over = bool(budget) and spent[budget] > limits[budget]
    if end.cause in attempts.ENDS_THE_RUN or over:
        visit.say("Succeeded", "False", end.cause, words)
        visit.say("Running", "False", "Finished")
        visit.status["summary"] = "Failed"
        visit.emit("Warning", "Failed", f"{end.cause}: {words}")
        return
    if end.cause in attempts.WAITS_FOR_INPUT:
        visit.say("Stalled", "True", end.cause, words)
    elif visit.stored_condition("Running").get("message") != words:
        visit.emit("Warning", end.cause, words)
    visit.say("Running", "False", end.cause, words)
    wait = attempts.due_after(end.at, attempts.backoff(end.cause, spent["tries"], visit.uid), visit.now)
    if wait > 0:
        visit.wake(wait)
        return
    _replace(visit, job, spent)


def _replace(visit: StudyVisit, job: Object, spent: dict[str, int]) -> None:
    metadata = job["metadata"]
    visit.deletes.append(DeleteJob(str(metadata["name"]), str(metadata["uid"])))
    _post(visit, spent)


def _tell_fitting(visit: StudyVisit) -> None:
    known = visit.stored_condition("Running")
    if known.get("reason") in attempts.WAITS_FOR_INPUT:
        # What was missing stays in sight while it is looked for again.
        visit.say("Stalled", "True", str(known["reason"]), str(known.get("message") or ""))
        visit.say("Running", "False", str(known["reason"]), str(known.get("message") or ""))
        return
    visit.say("Running", "True", "Fitting", "the laws are fitted to what the runs measured")


def _post(visit: StudyVisit, spent: dict[str, int]) -> None:
    visit.create(objects.fit_job(_facts(visit), spent))


def _facts(visit: StudyVisit) -> PodFacts:
    """As of a preparation of one of its runs, but that it needs no text: only where checkpoints lie."""
    places = visit.template.get("checkpoints") or {}
    uri = places.get("uri") or visit.settings.default_checkpoints_uri
    needs: dict[str, Any] = {
        "checkpoints": {"uri": uri},
        "cacheUri": None,
        "sources": [],
        "evaluation": {"sets": []},
        "baseModel": {"kind": "", "options": {}},
    }
    return PodFacts(
        run={"metadata": visit.study["metadata"], "spec": visit.template},
        snapshot=needs,
        compute=visit.compute,
        settings=visit.settings,
        study=_text(visit),
    )


def _text(visit: StudyVisit) -> str:
    return manifest_text(visit.study, visit.settings)

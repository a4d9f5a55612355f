"""Decides what should happen next to one study, from what is observed alone. Pure; the shell executes it.

    invalid? -> SpecValid=False    a run failed? -> Succeeded=False, the others are left to finish
    runs of the grid, at most spec.parallelism open ones -> all succeeded -> fit Job -> answers

A study never trains and never reads what was measured: it makes ContinualRuns, which are decided on as all others are,
and a Job that reads their reports. Both go with it (owner references); checkpoints stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from rewarm_api.study_runs import ChildRun
from rewarm_operator import conditions, objects, study_fit
from rewarm_operator.actions import Decision
from rewarm_operator.names import MADE_AS_ANNOTATION
from rewarm_operator.observed import Object, ObservedStudy
from rewarm_operator.settings import Settings
from rewarm_operator.study_runs import has_failed, has_succeeded, is_open, is_prepared
from rewarm_operator.study_visit import StudyVisit


def decide_study(observed: ObservedStudy, settings: Settings) -> Decision:
    """What to do now, in order, and when to look again although nothing changed."""
    visit = StudyVisit(observed, settings)
    if observed.study["metadata"].get("deletionTimestamp"):
        return Decision()
    if conditions.is_finished(visit.stored):
        return _after_the_end(visit)
    if _admit(visit):
        _advance(visit)
    return visit.decision()


def _admit(visit: StudyVisit) -> bool:
    """Say SpecValid. False: nothing new is made; runs that exist go on."""
    message, reason = "; ".join(map(str, visit.plan.problems)), "InvalidSpec"
    if not message:
        message, reason = _changed(visit), "ExperimentChanged"
    if not message:
        visit.say("SpecValid", "True", "Valid")
        return True
    known = visit.stored_condition("SpecValid")
    visit.say("SpecValid", "False", reason, message)
    visit.say("Stalled", "True", "SpecInvalid", message)
    visit.status.setdefault("summary", "Pending")
    if known.get("status") != "False" or known.get("message") != visit.said["SpecValid"].message:
        visit.emit("Warning", "SpecInvalid", message)
    return False


def _changed(visit: StudyVisit) -> str:
    """What is wrong when the spec no longer asks for the experiments that were begun; empty when it does."""
    for name, asked in visit.plan.made_as.items():
        run = visit.runs.get(name)
        made = run and (run["metadata"].get("annotations") or {}).get(MADE_AS_ANNOTATION)
        if made is not None and made != asked:
            return (
                f"spec: found another experiment than run {name} was made with, expected the one that was begun; undo "
                "the edit, or apply another study (the grid, tolerance, corpusTokens and parallelism may change)"
            )
    return ""


def _advance(visit: StudyVisit) -> None:
    children = visit.plan.children
    seen = [visit.runs[child.name] for child in children if child.name in visit.runs]
    failed = next((run for run in seen if has_failed(run)), None)
    new = [] if failed is not None else list(_next_runs(visit))
    _count(visit, sum(1 for child in new if not _is_stuck(visit, child)))
    if failed is not None:
        _fail(visit, failed)
        return
    _tell_runs(visit, seen)
    if len(seen) == len(children) and all(map(has_succeeded, seen)):
        if visit.stored_condition("RunsFinished").get("status") != "True":
            visit.emit("Normal", "RunsFinished", f"{len(children)} runs are trained and judged; the laws are fitted")
        visit.say("RunsFinished", "True", "Finished", f"{len(children)} runs are trained and judged")
        study_fit.advance(visit)
        return
    if "runs" not in visit.stored:
        parallelism = int(visit.spec.get("parallelism") or 1)
        visit.emit("Normal", "Started", f"{len(children)} runs, {parallelism} at a time")
    # One whose name is taken ends the list of actions: it must not keep the others from being made.
    for child in sorted(new, key=lambda child: _is_stuck(visit, child)):
        visit.create(objects.study_run(visit.study, child, visit.plan.made_as[child.name]))


def _next_runs(visit: StudyVisit) -> Iterator[ChildRun]:
    """Runs that are to be made now. The first of a model goes ahead alone until it has prepared its corpora: its
    siblings find them in the cache."""
    children = visit.plan.children
    room = int(visit.spec.get("parallelism") or 1) - sum(map(is_open, visit.runs.values()))
    there = [(child, visit.runs[child.name]) for child in children if child.name in visit.runs]
    prepared = {child.model for child, run in there if is_prepared(run) or has_succeeded(run)}
    led = {child.model for child, run in there if is_open(run)}
    for child in children:
        if room <= 0:
            return
        if child.name in visit.runs or (child.model in led and child.model not in prepared):
            continue
        led.add(child.model)
        room -= 1
        yield child


def _is_stuck(visit: StudyVisit, child: ChildRun) -> bool:
    """Whether the API server did not take it when it was asked last."""
    name = f"ContinualRun/{child.name}"
    return name in visit.observed.collisions or name in visit.observed.refused


def _count(visit: StudyVisit, new: int = 0) -> None:
    children = visit.plan.children
    runs = [visit.runs[child.name] for child in children if child.name in visit.runs]
    visit.status["runs"] = {
        "total": len(children),
        "finished": sum(map(has_succeeded, runs)),
        "running": sum(map(is_open, runs)) + new,
        "failed": sum(map(has_failed, runs)),
    }


def _tell_runs(visit: StudyVisit, seen: list[Object]) -> None:
    counts = visit.status["runs"]
    finished = f"{counts['finished']} of {counts['total']} runs are finished"
    visit.status["summary"] = "Training" if counts["running"] or counts["finished"] else "Pending"
    visit.say("RunsFinished", "False", "Training", finished)
    if counts["running"]:
        visit.say("Running", "True", "Training", finished)
    else:
        visit.say("Running", "False", "Waiting", finished)
    for run in seen:
        stalled = conditions.find(run.get("status") or {}, "Stalled")
        if stalled.get("status") == "True":
            words = f"run {run['metadata']['name']}: {stalled.get('reason')}: {stalled.get('message') or ''}"
            visit.say("Stalled", "True", "RunStalled", words)
            return


def _fail(visit: StudyVisit, run: Object) -> None:
    """No answer. Runs that train go on by themselves: what they measure is worth keeping."""
    found = conditions.find(run["status"], "Succeeded")
    message = f"run {run['metadata']['name']}: {found.get('reason')}: {found.get('message') or ''}"
    visit.say("Succeeded", "False", "RunFailed", message)
    visit.say("RunsFinished", "False", "RunFailed", message)
    visit.say("Running", "False", "Finished")
    visit.status["summary"] = "Failed"
    visit.emit("Warning", "Failed", message)


def _after_the_end(visit: StudyVisit) -> Decision:
    """Nothing more is made. After a failure the runs that were left to finish are still counted."""
    is_counting = int((visit.stored.get("runs") or {}).get("running") or 0) > 0 and not visit.plan.problems
    if is_counting:
        _count(visit)
    if not is_counting and visit.stored.get("observedGeneration") == visit.generation:
        return Decision()
    return visit.decision()

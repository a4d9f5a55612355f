"""A run that is being deleted: its Jobs go, its MLflow run is ended; checkpoints and registered models stay. Pure.

Works with an invalid spec, and with every child gone.
"""

from __future__ import annotations

from typing import Literal

from rewarm_operator import attempts, conditions, moments, names, tracking
from rewarm_operator.actions import Action, Decision, DeleteJob, SetFinalizer
from rewarm_operator.visit import Visit

MLFLOW_PATIENCE_SECONDS = 60
"""A tracking server that stays away does not keep a run from going."""


def decide(visit: Visit) -> Decision:
    """Jobs first, MLflow next, the finalizer last."""
    if names.FINALIZER not in (visit.run["metadata"].get("finalizers") or ()):
        return Decision()
    actions: list[Action] = [
        DeleteJob(str(job["metadata"]["name"]), str(job["metadata"]["uid"]))
        for job in visit.observed.jobs
        if "deletionTimestamp" not in job["metadata"]
    ]
    asked = moments.parse(visit.run["metadata"].get("deletionTimestamp"))
    wait = attempts.due_after(asked, MLFLOW_PATIENCE_SECONDS, visit.now)
    if _is_open(visit) and wait > 0:
        return Decision((*actions, tracking.request(visit, end=_end(visit))), min(wait, tracking.RETRY_SECONDS))
    return Decision((*actions, SetFinalizer(False)))


def _end(visit: Visit) -> Literal["FINISHED", "FAILED", "KILLED"]:
    """A verdict that MLflow has not heard of yet stands all the same."""
    succeeded = conditions.find(visit.stored, "Succeeded").get("status")
    return "FINISHED" if succeeded == "True" else "FAILED" if succeeded == "False" else "KILLED"


def _is_open(visit: Visit) -> bool:
    """Whether MLflow has a run of it that nobody has ended."""
    if not tracking.run_id(visit) or not tracking.is_on(visit):
        return False
    if conditions.find(visit.stored, "Registered").get("status") in ("True", "False"):
        return False
    return not visit.observed.registry.ended

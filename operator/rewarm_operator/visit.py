"""One look at one run: what it is, the status it should have, and what should be done, gathered until it is decided.

Rules (`preparation`, `running`, `finishing`, ...) read the visit and add to it. They never see each other's state:
what one of them did is found again in what is observed, or in the status that is being written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from rewarm_api.operation import Compute, Retries
from rewarm_operator import conditions, moments, names, pods, snapshots
from rewarm_operator.actions import Decision, PatchStatus
from rewarm_operator.look import Look
from rewarm_operator.observed import Object, Observed
from rewarm_operator.settings import Settings
from rewarm_operator.status_changes import changes_of, is_quiet

Json = dict[str, Any]

_TOLD_BY_US = (
    None, "", "NotYetKnown", "AsExpected", "TrackingUnavailable", "NameCollision", "SnapshotLost",
    "StatusRefused",
)  # fmt: skip
"""Reasons of Degraded that each visit finds out anew; others came with a heartbeat."""


class Visit(Look):
    """Made anew for each decision about a run."""

    def __init__(self, observed: Observed, settings: Settings) -> None:
        super().__init__(observed.run, observed, settings)
        self.observed, self.run = observed, observed.run
        self.has_heard = False
        """A heartbeat of the attempt that runs is in the status that is being written."""
        self.waits_for_job = False
        """The one write of a transition comes once the Job that this decision posts is seen."""

    # -- what is read --------------------------------------------------------------------------------------------------

    @property
    def is_suspended(self) -> bool:
        return bool(self.spec.get("suspend"))

    @cached_property
    def compute(self) -> Compute:
        """As the spec has it; the defaults while it is invalid (then nothing is posted)."""
        try:
            return Compute.model_validate(self.spec.get("compute") or {})
        except ValidationError:
            return Compute()

    @cached_property
    def retries(self) -> Retries:
        """As the spec has them; the defaults while they are invalid."""
        try:
            return Retries.model_validate(self.spec.get("retries") or {})
        except ValidationError:
            return Retries()

    @property
    def on_forgetting(self) -> str:
        return str((self.spec.get("gates") or {}).get("onForgetting") or "Warn")

    @cached_property
    def snapshot(self) -> Mapping[str, Any] | None:
        """The stored snapshot as JSON; while it is not stored yet, the one that it will be; None when it is lost."""
        stored = self.observed.config_map
        if stored is not None:
            found = _read(str((stored.get("data") or {}).get(names.SNAPSHOT_KEY) or ""))
        else:
            found = snapshots.resolved(self.run, self.settings).snapshot
        return found if found is not None and found["digest"] == self.status.get("snapshotDigest") else None

    @property
    def tracking(self) -> Mapping[str, Any]:
        """Where MLflow is and how things are called there; empty when the snapshot is lost."""
        found: Mapping[str, Any] = (self.snapshot or {}).get("tracking") or {}
        return found

    def job(self, name: str) -> Object | None:
        return next((job for job in self.observed.jobs if job["metadata"]["name"] == name), None)

    @cached_property
    def attempt_jobs(self) -> dict[int, Object]:
        """The run's attempt Jobs by number."""
        found = {}
        for job in self.observed.jobs:
            number = names.attempt_number(self.name, str(job["metadata"]["name"]))
            if number is not None:
                found[number] = job
        return dict(sorted(found.items()))

    # -- what is written -----------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Json:
        found: Json = self.status.setdefault("counts", {"attempts": 1, "failures": 0, "disruptions": 0})
        return found

    def keep_health(self) -> None:
        """Stalled and Degraded where nobody said otherwise; what a heartbeat told stays until one says more."""
        is_over = "Succeeded" in self.said or conditions.is_finished(self.stored)
        self.said.setdefault("Stalled", conditions.Fact("False", "Finished" if is_over else "Progressing"))
        problem, before = self.observed.registry.problem, self.stored_condition("Degraded")
        if "Degraded" in self.said:
            return
        if self.observed.unwritten:
            fields = ", ".join(f"status.{name}" for name in self.observed.unwritten)
            mend = "update the CRD to the version of the operator, whose log has the reason"
            self.say("Degraded", "True", "StatusRefused", f"the API server refuses {fields}; {mend}")
        elif problem:
            self.say("Degraded", "True", "TrackingUnavailable", problem)
        elif self.has_heard or before.get("reason") in _TOLD_BY_US:
            self.say("Degraded", "False", "AsExpected")

    def version_tags(self) -> dict[str, str]:
        """Lineage of the registered version: what the trainer said, while its pod can still be asked, and the gist."""
        tags = {
            "rewarm.dev/run": self.name,
            "rewarm.dev/run-uid": self.uid,
            "rewarm.dev/snapshot-digest": str(self.status.get("snapshotDigest", "")),
            "rewarm.dev/promotion": str((self.status.get("promotion") or {}).get("reason", "")),
        }
        for pod in self.observed.pods:
            ended = pods.ended(pod)
            if ended is not None and ended.rank == 0 and ended.termination is not None:
                tags |= ended.termination.tags
        return tags

    # -- the decision --------------------------------------------------------------------------------------------------

    def decision(self) -> Decision:
        """The status first: all else stands on it. Events next, since an object that is refused ends the list."""
        self.tell_stalls()
        self._count_training()
        conditions.write(self.status, self.said, self.generation, moments.written(self.now))
        self.status["observedGeneration"] = self.generation
        changes = changes_of(self.stored, self.status)
        if self.waits_for_job or not changes:
            return Decision(self.objects_only(), self.look_again)
        if is_quiet(changes, self.stored, self.status) and (wait := self._throttled()) > 0:
            self.wake(wait)
            return Decision(self.objects_only(), self.look_again)
        patch = PatchStatus(changes, str(self.run["metadata"].get("resourceVersion", "")))
        return Decision((patch, *self.events, *self.deletes, *self.after), self.look_again)

    def _count_training(self) -> None:
        """When the pods stop running, the time that they ran is added up: attempts may be many, or wait for days."""
        fact, before = self.said.get("Running"), self.stored_condition("Running")
        since = moments.parse(before.get("lastTransitionTime"))
        if fact is not None and fact.status != "True" and before.get("status") == "True" and since is not None:
            ran = max(0, round(moments.seconds_between(since, self.now)))
            self.status["trainingSeconds"] = int(self.status.get("trainingSeconds") or 0) + ran

    def _throttled(self) -> float:
        """Seconds until the next patch that is only numbers may be written."""
        last = self.observed.last_status_patch
        if last is None:
            return 0.0
        return self.settings.status_interval_seconds - moments.seconds_between(last, self.now)


def _read(text: str) -> Mapping[str, Any] | None:
    """A stored snapshot; None for what is none (somebody else's ConfigMap under our name and owner)."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "digest" in found else None

"""One look at one study: which of its runs exist, and the status it should have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from rewarm_api.operation import Compute, Retries
from rewarm_api.study_status import CONDITION_TYPES
from rewarm_operator import conditions, moments
from rewarm_operator.actions import Decision, PatchStatus
from rewarm_operator.look import Look
from rewarm_operator.observed import Object, ObservedStudy
from rewarm_operator.settings import Settings
from rewarm_operator.status_changes import changes_of, is_quiet
from rewarm_operator.study_plans import Plan, planned


class StudyVisit(Look):
    """Made anew for each decision about a study."""

    noun = "study"

    def __init__(self, observed: ObservedStudy, settings: Settings) -> None:
        super().__init__(observed.study, observed, settings)
        self.observed, self.study = observed, observed.study

    # -- what is read --------------------------------------------------------------------------------------------------

    @cached_property
    def plan(self) -> Plan:
        return planned(self.study, self.settings)

    @cached_property
    def runs(self) -> Mapping[str, Object]:
        """The runs that the study owns, by name; some may be of an earlier grid."""
        return {str(run["metadata"]["name"]): run for run in self.observed.runs}

    @property
    def template(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec["template"]["spec"]
        return found

    @cached_property
    def compute(self) -> Compute:
        return Compute.model_validate(self.template.get("compute") or {})

    @cached_property
    def retries(self) -> Retries:
        try:
            return Retries.model_validate(self.template.get("retries") or {})
        except ValidationError:
            return Retries()

    def job(self, name: str) -> Object | None:
        return next((job for job in self.observed.jobs if job["metadata"]["name"] == name), None)

    # -- the decision --------------------------------------------------------------------------------------------------

    def keep_health(self) -> None:
        """Stalled and Degraded where nobody said otherwise."""
        is_over = "Succeeded" in self.said or conditions.is_finished(self.stored)
        self.said.setdefault("Stalled", conditions.Fact("False", "Finished" if is_over else "Progressing"))
        if self.observed.unwritten:
            fields = ", ".join(f"status.{name}" for name in self.observed.unwritten)
            mend = "update the CRD to the version of the operator, whose log has the reason"
            self.say("Degraded", "True", "StatusRefused", f"the API server refuses {fields}; {mend}")
        self.said.setdefault("Degraded", conditions.Fact("False", "AsExpected"))

    def decision(self) -> Decision:
        """The status first: all else stands on it. Events next, since an object that is refused ends the list."""
        self.keep_health()
        self.tell_stalls()
        conditions.write(self.status, self.said, self.generation, moments.written(self.now), CONDITION_TYPES)
        self.status["observedGeneration"] = self.generation
        changes = changes_of(self.stored, self.status)
        if not changes:
            return Decision(self.objects_only(), self.look_again)
        if is_quiet(changes, self.stored, self.status) and (wait := self._throttled()) > 0:
            self.wake(wait)
            return Decision(self.objects_only(), self.look_again)
        patch = PatchStatus(changes, str(self.study["metadata"].get("resourceVersion", "")))
        return Decision((patch, *self.events, *self.deletes, *self.after), self.look_again)

    def _throttled(self) -> float:
        """Seconds until the next patch that is only numbers may be written."""
        last = self.observed.last_status_patch
        if last is None:
            return 0.0
        return self.settings.status_interval_seconds - moments.seconds_between(last, self.now)

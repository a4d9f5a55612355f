"""Posts attempts: the number is in the status before the Job exists, and no number is used twice. Pure."""

from __future__ import annotations

from rewarm_operator import kueue, objects, tracking
from rewarm_operator.pod_objects import PodFacts
from rewarm_operator.visit import Visit


def pod_facts(visit: Visit, attempt: int) -> PodFacts:
    """What the pods of an attempt (0: of preparation) depend on."""
    snapshot = visit.snapshot
    assert snapshot is not None, "nothing is posted without a snapshot"
    retries = {"maxFailures": visit.retries.max_failures, "maxDisruptions": visit.retries.max_disruptions}
    return PodFacts(
        run=visit.run,
        snapshot=snapshot,
        compute=visit.compute,
        settings=visit.settings,
        attempt=attempt,
        retries=retries,
        on_forgetting=visit.on_forgetting,
        tracking_run_id=tracking.run_id(visit),
    )


def post(visit: Visit, number: int) -> None:
    """Have the Job of attempt `number` made. The counts say so first."""
    visit.counts["attempts"] = number
    if visit.status.get("summary") != "Retrying":
        visit.status["summary"] = "Starting"
    visit.say("Running", "False", "Starting", f"attempt {number}")
    if not kueue.tell_admission(visit, None):
        visit.status["summary"] = "Queued"
    visit.create(objects.attempt_job(pod_facts(visit, number)))
    is_counted = (visit.stored.get("counts") or {}).get("attempts") == number
    # With the number already written, the status is told once for all when the Job is seen.
    visit.waits_for_job = is_counted and not visit.is_refused

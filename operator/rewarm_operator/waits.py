"""Says in conditions what a run waits for: a person's word, a missing thing, a node. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rewarm_operator import attempts, moments, pods
from rewarm_operator.look import Look
from rewarm_operator.observed import Object
from rewarm_operator.visit import Visit

PATIENCE_SECONDS = 300
"""How long a pod may wait for a node or for its image before that is called a stall: an autoscaler needs minutes."""
NO_PODS_SECONDS = 60
"""How long a Job may be without pods: making them takes a moment, unless they are refused."""


def tell_waiting(visit: Look, members: Sequence[Object], job: Object) -> None:
    """What keeps a Job's pods from running, if anything is known to."""
    found = pods.waiting(members)
    if found is not None:
        visit.say("Running", "False", found.reason, found.message)
    if found is not None and found.needs_help:
        visit.say("Stalled", "True", found.reason, found.message)
        return
    idle = [pod for pod in members if not pods.is_terminal(pod) and pods.running_since(pod) is None]
    if members and not idle:
        return
    name = job["metadata"]["name"]
    if not members:
        patience, reason = NO_PODS_SECONDS, "NoPods"
        message = f"Job {name} gets no pods: see its events (quota, Pod Security, service account)"
    elif found is not None:
        patience, reason, message = PATIENCE_SECONDS, found.reason, found.message
    else:
        patience, reason = PATIENCE_SECONDS, "NotStarting"
        message = f"pod {idle[0]['metadata']['name']} does not start: see its events (volumes, image)"
    made = [moments.parse(each["metadata"].get("creationTimestamp")) for each in idle] or [_started(job)]
    wait = attempts.due_after(min(filter(None, made), default=None), patience, visit.now)
    if wait > 0:
        visit.wake(wait)
    else:
        visit.say("Stalled", "True", reason, message)


def _started(job: Object) -> datetime | None:
    """When the Job controller was free to make pods."""
    started = (job.get("status") or {}).get("startTime") or job["metadata"].get("creationTimestamp")
    return moments.parse(started)


def tell_suspended(visit: Visit) -> None:
    """The run stands still because somebody asked for it."""
    visit.say("Suspended", "True", "Suspended", "spec.suspend is true: set it to false to go on")
    visit.say("Running", "False", "Suspended", "")
    visit.say("Stalled", "False", "Suspended", "")
    visit.status["summary"] = "Suspended"
    if visit.stored_condition("Suspended").get("status") != "True":
        visit.emit("Normal", "Suspended", "spec.suspend is true: what is committed stays, machines are given back")


def tell_resumed(visit: Visit) -> None:
    if visit.is_suspended:
        return
    visit.say("Suspended", "False", "NotSuspended", "")
    if visit.stored_condition("Suspended").get("status") == "True":
        visit.emit("Normal", "Resumed", "spec.suspend is false: the run goes on")

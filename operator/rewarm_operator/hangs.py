"""Notices pods that show no sign of life any more, by what rank 0 tells and by what it stops telling. Pure."""

from __future__ import annotations

from datetime import timedelta

from rewarm_operator import attempts, moments, names, pods
from rewarm_operator.observed import Heartbeat, Object
from rewarm_operator.pod_objects import authority_digest
from rewarm_operator.visit import Visit


def heartbeat(visit: Visit, number: int, job: Object | None) -> Heartbeat | None:
    """The newest one of rank 0 of attempt `number` (0: of preparation), as it is now: Kueue may run pods again."""
    found = visit.observed.heartbeat
    if found is None or found.attempt != number or job is None:
        return None
    mine = {pod["metadata"]["uid"] for pod in pods.owned_by(job, visit.observed.pods)}
    return found if found.pod_uid in mine else None


def end(visit: Visit, number: int, job: Object) -> attempts.End | None:
    """No sign of life for too long, from a pod that could have given one, to a process that would have heard it."""
    leading, settings = visit.observed.leading_since, visit.settings
    members = pods.owned_by(job, visit.observed.pods)
    first = members[0] if members and pods.index(members[0]) == 0 else None
    since = None if first is None else pods.running_since(first)
    if first is None or since is None or leading is None or not settings.progress_url:
        return None
    digest = (first["metadata"].get("annotations") or {}).get(names.AUTHORITY_DIGEST_ANNOTATION)
    if digest != authority_digest(settings.progress_ca):
        return None
    timeout = timedelta(seconds=settings.heartbeat_timeout_seconds)
    newest = heartbeat(visit, number, job)
    silent_since = max(since, leading) if newest is None else newest.received
    limits = [(silent_since + timeout, f"no heartbeat for {settings.heartbeat_timeout_seconds} s")]
    phase = None if newest is None else newest.report.phase
    deadline = None if phase is None else moments.parse(phase.deadline)
    if deadline is not None and phase is not None:
        limits.append((deadline, f"{phase.activity or 'a phase'} passed its deadline {phase.deadline}"))
    at, why = min(limits)
    if at <= visit.now:
        return attempts.End("Hang", why, visit.now)
    visit.wake(moments.seconds_between(visit.now, at))
    return None

"""What MLflow should hold for a run: made with attempt 1, ended with the run, never waited for in between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rewarm_operator.actions import Track
from rewarm_operator.visit import Visit

RETRY_SECONDS = 30.0


def is_on(visit: Visit) -> bool:
    return bool(visit.tracking.get("uri"))


def run_id(visit: Visit) -> str:
    known = (visit.stored.get("tracking") or {}).get("runId")
    return str(known or visit.observed.registry.run_id)


def begin(visit: Visit) -> None:
    """Have the MLflow run made, unless it is known. Its id goes into the status with whatever is written next."""
    if (visit.stored.get("tracking") or {}).get("runId") or not is_on(visit):
        return
    registry = visit.observed.registry
    if registry.run_id:
        if visit.status.get("attempts"):
            note(visit)
        return
    visit.after.append(request(visit))
    if registry.problem:
        visit.wake(RETRY_SECONDS)


def note(visit: Visit) -> None:
    """What MLflow answered, into the status."""
    registry = visit.observed.registry
    known = {"runId": registry.run_id, "url": registry.url, "modelVersion": registry.model_version}
    found = {name: value for name, value in known.items() if value}
    if found:
        visit.status["tracking"] = {**visit.status.get("tracking", {}), **found}


def request(
    visit: Visit,
    *,
    source: str = "",
    version: str = "",
    alias: str = "",
    end: Literal["", "FINISHED", "FAILED", "KILLED"] = "",
    version_tags: Mapping[str, str] | None = None,
    ask: str = "",
) -> Track:
    """What to ask of MLflow; only called where tracking is on."""
    tracking = visit.tracking
    tags = {
        "rewarm.dev/run": visit.name,
        "rewarm.dev/namespace": visit.namespace,
        "rewarm.dev/snapshot-digest": str(visit.status.get("snapshotDigest", "")),
    }
    model = str(tracking.get("registeredModel") or visit.name) if source or version else ""
    return Track(
        uri=str(tracking["uri"]),
        experiment=str(tracking.get("experiment") or visit.name),
        run_name=visit.name,
        uid=visit.uid,
        tags=tags,
        model=model,
        source=source,
        version_tags=version_tags,
        alias=alias,
        end=end,
        version=version,
        ask=ask,
    )

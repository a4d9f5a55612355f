"""What the operator sees of one run at one moment: raw objects of the API server, plus what pods reported.

Views read objects and never change them. `None` for an object means it does not exist; decisions are made only once
every informer has synced, so absence is a fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rewarm_api.reported import Report

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Heartbeat:
    """The newest thing that rank 0 of an attempt told the progress server."""

    attempt: int
    pod_uid: str
    received: datetime
    report: Report


@dataclass(frozen=True)
class Registry:
    """What `registry.py` knows of the run in MLflow; filled in by it, one step at a time."""

    run_id: str = ""
    url: str = ""
    model_version: str = ""
    promoted_alias: str = ""
    promoted_version: str = ""
    """The version that `promoted_alias` was last moved to."""
    answered: str = ""
    """`Track.ask` of the newest promotion that was done, or (then nothing moved) whose version is not there."""
    ended: str = ""
    """Terminal status that MLflow has for it: FINISHED, FAILED, KILLED or empty."""
    problem: str = ""
    """Why MLflow could not be asked, in one line; empty when it answers (or is not used)."""


@dataclass(frozen=True)
class ObservedStudy:
    """Everything a decision about one study reads."""

    study: Object
    """The MixtureStudy as the API server has it (metadata, spec, status)."""
    now: datetime
    runs: tuple[Object, ...] = ()
    """ContinualRuns that it owns."""
    jobs: tuple[Object, ...] = ()
    """Jobs that it owns: at most the one that fits."""
    pods: tuple[Object, ...] = ()
    listed: Mapping[str, datetime] = field(default_factory=dict)
    collisions: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    unwritten: tuple[str, ...] = ()
    last_status_patch: datetime | None = None


@dataclass(frozen=True)
class Observed:
    """Everything a decision about one run reads. Times are aware datetimes in UTC."""

    run: Object
    """The ContinualRun as the API server has it (metadata, spec, status)."""
    now: datetime
    config_map: Object | None = None
    service: Object | None = None
    jobs: tuple[Object, ...] = ()
    """Jobs with label rewarm.dev/run-uid of this run, any role."""
    seen_jobs: frozenset[str] = frozenset()
    """Names of the Jobs of this run that this process has seen; some may be gone."""
    pods: tuple[Object, ...] = ()
    listed: Mapping[str, datetime] = field(default_factory=dict)
    """Uid of a Job -> when its pods were asked for (`ListPods`)."""
    workloads: tuple[Object, ...] = ()
    """Kueue Workloads of those Jobs."""
    kueue_installed: bool = False
    collisions: tuple[str, ...] = ()
    """`Kind/name` of objects that have a name of ours but another owner (from AlreadyExists answers)."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """`Kind/name` -> the API server's message for a create that it refuses for good (403 quota, 422)."""
    unwritten: tuple[str, ...] = ()
    """Fields of the status that the API server refuses to take: it was written without them."""
    heartbeat: Heartbeat | None = None
    registry: Registry = Registry()
    leading_since: datetime | None = None
    """When this process became the active operator: heartbeats from before it are not known to it."""
    last_status_patch: datetime | None = None
    """When this process last patched the run's status; None: not yet."""

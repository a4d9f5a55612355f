"""What a decision can ask for. Executing an action twice changes nothing; the executor runs them in order.

When one fails, the rest of the list is not run: the key is queued again and decided anew from what is then observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SetFinalizer:
    """Add (or, with present=False, remove) `rewarm.dev/run`."""

    present: bool = True


@dataclass(frozen=True)
class Create:
    """POST this object (ConfigMap, Service or Job, complete with owner reference). AlreadyExists by us is success.

    Another owner, or a refusal for good, goes into Observed.collisions or Observed.refused and is an error: the key is
    queued again with backoff, the create is asked for again, and its entry goes once it succeeds.
    """

    body: Mapping[str, Any]


@dataclass(frozen=True)
class DeleteJob:
    """Delete with propagationPolicy Background and a uid precondition. NotFound is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class ListPods:
    """Read the pods of this Job (by uid), and note in Observed.listed when that was done."""

    job: str


@dataclass(frozen=True)
class PatchStatus:
    """Merge-patch of the status subresource: only what changes (None removes a key).

    `resource_version` set (it always is): the write carries it, and a conflict means "decide again". So a decision
    holds at most one, and none after a change of the finalizer or of annotations.
    """

    changes: Mapping[str, Any]
    resource_version: str = ""


@dataclass(frozen=True)
class Annotate:
    """Merge-patch of the run's annotations (None removes one): an asked promotion that was done."""

    changes: Mapping[str, str | None]


@dataclass(frozen=True)
class Emit:
    """An Event on the run. One per transition; the recorder aggregates repeats."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Track:
    """Ask registry.py (off the event loop) to bring MLflow to this state; its answer requeues the run.

    Done in order, each idempotent: find or make the run by uid tag; register `source` as a version; move `alias` to it
    (or to `version`); set the terminal status. Empty fields are skipped. It is asked for at each visit until the answer
    is in Observed.registry: one that runs already, or failed a moment ago, is not started again.
    """

    uri: str
    experiment: str
    run_name: str
    uid: str
    tags: Mapping[str, str]
    model: str = ""
    source: str = ""
    version_tags: Mapping[str, str] | None = None
    alias: str = ""
    end: Literal["", "FINISHED", "FAILED", "KILLED"] = ""
    version: str = ""
    """An existing version to move the alias to (promote, rollback) instead of registering `source`."""
    ask: str = ""
    """Which asking of a person this follows: what was done for an earlier one may have been undone since."""


Action = SetFinalizer | Create | DeleteJob | ListPods | PatchStatus | Annotate | Emit | Track


@dataclass(frozen=True)
class Decision:
    """Actions in order, and when to look again although nothing changed (seconds; None: only on an event)."""

    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None

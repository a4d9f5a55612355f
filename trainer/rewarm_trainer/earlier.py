"""An earlier run: its work folder by path on this machine, or its stored folder by name on a cluster."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.addresses import sibling_uri
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.workdir import WorkFolder


def earlier_work(
    field: str, path: str | None, name: str | None, snapshot: Snapshot, root: Path, cache: Path
) -> WorkFolder:
    """The work folder of the run that `field` names. By name: what it stored, brought into the local cache."""
    if path:
        work = WorkFolder(root / path)
        if not work.root.is_dir():
            raise MissingInputError(
                f"{field}.path: {work.root}: no such folder; let the earlier run train there first, or give "
                "its work folder"
            )
        return work
    if not name or snapshot.checkpoints.uri is None:
        raise ManifestError(Problem(field, "no path", "the work folder of an earlier run", "add path: FOLDER"))
    uri = sibling_uri(snapshot, name, field)
    work = WorkFolder(cache / "earlier" / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}")
    StoredRun.of(work, uri).restore(lambda message: None)
    if not (work.snapshot.exists() and work.pins.exists()):
        raise MissingInputError(
            f"{field}: nothing of run {name} lies at {uri}; correct the name, or let that run be prepared and trained "
            "with its checkpoints there"
        )
    return work

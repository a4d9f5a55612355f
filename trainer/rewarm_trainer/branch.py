"""A branch of a trunk: what it takes over, what it refuses, and how the trunk's checkpoint stays within reach.

    trunk    ----o--------o--------o--------o---->      goes on, prunes its old checkpoints, is never written to
                          |
    branch                `---------.__                 its optimizer, its learning rate, its place in the text

Reads the trunk's folder and nothing else of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.pins import Pins, SourcePin
from rewarm_api.snapshot import Plan, SegmentKind, Snapshot
from rewarm_trainer.checkpoint import MANIFEST, Checkpoint, sha256_of
from rewarm_trainer.files import publish_folder
from rewarm_trainer.schedule import learning_rate

ANNEAL = "spec.baseModel.run.anneal"


def inherited(snapshot: Snapshot, earlier: Snapshot, pins: Pins, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a branch takes over from its trunk at a checkpoint, as a part of the base's pin.

    learning_rate: the trunk's after that checkpoint's last update. cursors: where each source stood, so that the
    branch trains on text that the trunk has not seen yet. Raises ManifestError (64) when that run is no trunk there,
    or its rate lies outside of what the schedule allows.
    """
    _check_trunk(earlier, pins.plan, state["tokens"], state["step"])
    rate = learning_rate(pins.plan.segments, state["tokens"])
    _check_rate(snapshot, rate, state["step"])
    cursors = {
        name: {"prepared": pin.prepared, "rows": pin.rows, "next": state["cursors"][name]}
        for name, pin in pins.sources.items()
    }
    return {"learning_rate": rate, "seed": earlier.training.seed, "cursors": cursors}


def _check_trunk(earlier: Snapshot, plan: Plan, tokens: int, step: int) -> None:
    kind = next(segment.kind for segment in plan.segments if tokens <= segment.ends)
    found = ""
    if earlier.schedule.kind != "Infinite":
        found = f"run {earlier.name}, whose schedule is {earlier.schedule.kind}"
    elif kind is SegmentKind.WARMUP:
        found = f"run {earlier.name} at step {step}, which is still warming up"
    elif kind not in (SegmentKind.COOLDOWN, SegmentKind.CONSTANT):
        found = f"run {earlier.name} at step {step}, where its learning rate is annealed already"
    if found:
        raise ManifestError(
            Problem(
                ANNEAL,
                found,
                "a trunk: an Infinite run, at a checkpoint after its warm-up and before any anneal",
                "choose another checkpoint, or remove anneal and give this run a schedule of its own",
            )
        )


def _check_rate(snapshot: Snapshot, rate: float, step: int) -> None:
    schedule = snapshot.schedule
    where = f"the trunk's learning rate at step {step}, {rate:g}"
    if schedule.peak_learning_rate < rate:
        found, fix = f"{schedule.peak_learning_rate:g}", f"use at least {rate:g}"
        raise ManifestError(Problem("spec.schedule.peakLearningRate", found, f"no less than {where}", fix))
    if schedule.final_learning_rate > rate:
        found, fix = f"{schedule.final_learning_rate:g}", f"use at most {rate:g}"
        raise ManifestError(Problem("spec.schedule.finalLearningRate", found, f"no more than {where}", fix))


def carried(base: Mapping[str, Any], sources: Mapping[str, SourcePin], seed: int) -> dict[str, int]:
    """Rows of each source that a branch passes over, because its trunk took them: same text, same order.

    Empty for any other run; a source that the trunk did not have, or that is cut or ordered otherwise, begins anew.
    """
    if base.get("seed") != seed:
        return {}
    taken = {}
    for name, there in base.get("cursors", {}).items():
        own = sources.get(name)
        if own is not None and (own.prepared, own.rows) == (there["prepared"], there["rows"]) and there["next"]:
            taken[name] = there["next"]
    return taken


def keep_copy(checkpoint: Checkpoint, cache: Path) -> Path:
    """A checkpoint of a run that still goes on, kept under its digest: that run will prune it.

    Files are linked where the file system allows, else copied; a committed file is never written to again.
    """
    try:
        return publish_folder(_place(cache, checkpoint.sha256), lambda place: _fill(checkpoint.folder, place))
    except FileNotFoundError as error:
        raise DataError(
            f"{checkpoint.folder}: pruned by its run while it was read ({error.filename}); start again to take a newer "
            "one, or raise checkpoints.keep there"
        ) from error


def kept(digest: str, cache: Path) -> Path | None:
    """The folder of a kept checkpoint, every byte checked, or None."""
    folder = _place(cache, digest.removeprefix("sha256:"))
    if not folder.is_dir():
        return None
    for name, expected in json.loads((folder / MANIFEST).read_text())["files"].items():
        if sha256_of(folder / name) != expected["sha256"]:
            raise DataError(f"{folder / name}: not the bytes that were kept; remove {folder} and start again")
    return folder


def _place(cache: Path, digest: str) -> Path:
    return cache / "bases" / digest


def _fill(source: Path, place: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            target = place / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(path, target)

"""Where the weights come from: every local form of spec.baseModel, pinned by digest or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.base import Base, folder_digest, locate, stored_type
from rewarm_trainer.checkpoint import STATE, WEIGHTS, Checkpoints
from rewarm_trainer.files import write_json
from rewarm_trainer.workdir import WorkFolder, write_snapshot

INFINITE = {
    "kind": "Infinite",
    "peakLearningRate": 1e-3,
    "constantLearningRate": 5e-4,
    "warmup": "10%",
    "cooldown": {"length": "40%"},
}


def snapshot(base: dict[str, Any], **changes: Any) -> Snapshot:
    spec: dict[str, Any] = {
        "baseModel": base,
        "corpus": {"sources": [{"name": "new", "uri": "new.jsonl"}]},
        "schedule": {"peakLearningRate": 1e-3},
        "budget": {"tokens": 2560},
        "training": {"sequenceLength": 16, "globalBatchTokens": 256},
        **changes,
    }
    document = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": "demo"}, "spec": spec}
    validation = validate(document, local=True)
    assert validation.run is not None, validation.problems
    return resolve(validation.run, uid="uid-1")


SCRATCH = {"scratch": {"config": {"model_type": "llama"}}}


def write_model(folder: Path, dtype: torch.dtype = torch.bfloat16, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.full((4, 4), value, dtype=dtype)}, folder / WEIGHTS)
    return folder


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., Base]:
    def locate_(base: dict[str, Any], pinned: dict[str, Any] | None = None, **changes: Any) -> Base:
        return locate(snapshot(base, **changes), tmp_path, tmp_path / "cache", pinned)

    return locate_


# --- a folder -------------------------------------------------------------------------------------------------------


def test_a_folder_is_pinned_by_its_bytes_and_keeps_its_type(tmp_path: Path, find: Callable[..., Base]) -> None:
    folder = write_model(tmp_path / "base")
    base = find({"file": {"path": "base"}})
    assert base.folder == folder
    assert not base.is_run
    assert base.pin == {"kind": "file", "path": "base", "digest": folder_digest(folder), "exportType": "BF16"}
    assert find({"file": {"path": "base"}}, base.pin).pin == base.pin
    (folder / "README.md").write_text("words change nothing")
    assert folder_digest(folder) == base.pin["digest"]
    write_model(folder, value=2.0)
    with pytest.raises(DataError, match=r"base have digest sha256:.*, this run was started from sha256:.*restore them"):
        find({"file": {"path": "base"}}, base.pin)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_config_and_weights_are_in_the_digest(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "base")
    before = folder_digest(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert folder_digest(folder) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_is_that_of_most_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_model(tmp_path / "base", dtype)
    save_file(
        {"norm": torch.ones(3, dtype=torch.float32), "count": torch.ones(400, dtype=torch.int64)},
        folder / "model-2.safetensors",
    )
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    assert stored_type(folder) == names[dtype]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(MissingInputError, match=r"base: no model\*\.safetensors there"):
        folder_digest(folder)
    for name in ("pytorch_model.bin", "model.pth"):
        (folder / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"expected safetensors: pickle files can run code.*convert"):
            folder_digest(folder)
    write_model(folder)
    folder_digest(folder)


def test_half_a_model_is_no_base(tmp_path: Path, find: Callable[..., Base]) -> None:
    with pytest.raises(MissingInputError, match="nowhere: no such base model"):
        find({"file": {"path": "nowhere"}})
    (write_model(tmp_path / "base") / "config.json").unlink()
    with pytest.raises(MissingInputError, match=r"no config\.json beside the weights"):
        find({"file": {"path": "base"}})


def test_scratch_has_no_folder_and_its_digest_is_its_recipe(find: Callable[..., Base]) -> None:
    base = find(SCRATCH)
    assert (base.folder, base.pin["kind"], base.is_run) == (None, "scratch", False)
    assert find(SCRATCH).pin == base.pin
    training = {"sequenceLength": 16, "globalBatchTokens": 256, "seed": 9}
    assert find(SCRATCH, training=training).pin["digest"] != base.pin["digest"]
    wider = {"scratch": {"config": {"model_type": "llama", "hidden_size": 8}}}
    assert find(wider).pin["digest"] != base.pin["digest"]


# --- another run's checkpoint ---------------------------------------------------------------------------------------


def write_run(root: Path, steps: list[int], *, finished: bool = True, **changes: Any) -> WorkFolder:
    """A work folder with checkpoints after `steps` updates; the second one is the best."""
    work = WorkFolder(root / "earlier")
    earlier = snapshot(SCRATCH, **changes)
    write_json(work.manifest, {"root": str(root), "manifest": {}})
    write_snapshot(work, earlier)
    write_json(work.pins, {"baseModel": {"exportType": "BF16"}, "sources": {"new": {"digest": "sha256:n"}}})
    checkpoints = Checkpoints.of(work, None, root)
    checkpoints.claim({})
    looks = []
    for number, step in enumerate(steps):
        looks.append({"step": step, "sets": {"new": {"delta": {"mean": -1.0 if number == 1 else 0.0}}}})
        folder = checkpoints.stage(step)
        write_model(folder, torch.float32, value=step)
        (folder / STATE).write_text(json.dumps({"tokens": step * 256, "evaluations": looks}))
        checkpoints.commit(step, step * 256, folder)
    if finished:
        write_json(work.report, {"outcome": "Succeeded"})
    return work


@pytest.mark.parametrize(("which", "step"), [("Final", 9), ("Latest", 9), ("Best", 6), (6, 6)])
def test_a_runs_checkpoint_by_name(tmp_path: Path, find: Callable[..., Base], which: str | int, step: int) -> None:
    work = write_run(tmp_path, [3, 6, 9])
    base = find({"run": {"path": "earlier", "checkpoint": which}})
    assert base.folder == work.checkpoints / f"step-{step:08d}"
    assert base.is_run
    assert (base.pin["name"], base.pin["uid"]) == ("demo", "uid-1")
    assert (base.pin["step"], base.pin["tokens"]) == (step, step * 256)
    assert base.pin["sources"] == {"new": "sha256:n"}, "what that run trained on"
    assert base.pin["exportType"] == "BF16", "what its own base was stored as, not the FP32 masters"


def test_best_and_latest_are_resolved_once(tmp_path: Path, find: Callable[..., Base]) -> None:
    write_run(tmp_path, [3, 6], finished=False)
    pinned = find({"run": {"path": "earlier", "checkpoint": "Latest"}}).pin
    assert pinned["step"] == 6
    write_run(tmp_path, [3, 6, 9], finished=False)
    assert find({"run": {"path": "earlier", "checkpoint": "Latest"}}).pin["step"] == 9
    assert find({"run": {"path": "earlier", "checkpoint": "Latest"}}, pinned).pin == pinned


def test_a_run_that_has_no_such_checkpoint_is_named(tmp_path: Path, find: Callable[..., Base]) -> None:
    write_run(tmp_path, [3, 6], finished=False)
    with pytest.raises(MissingInputError, match=r"that run has not finished \(no report\.json\).*checkpoint: Latest"):
        find({"run": {"path": "earlier"}})
    with pytest.raises(MissingInputError, match=r"no checkpoint of step 4; there are \[3, 6\]"):
        find({"run": {"path": "earlier", "checkpoint": 4}})
    with pytest.raises(MissingInputError, match=r"^spec\.baseModel\.run\.path: .*nowhere: no such folder; let"):
        find({"run": {"path": "nowhere"}})


def test_final_is_that_of_a_run_that_succeeded(tmp_path: Path, find: Callable[..., Base]) -> None:
    work = write_run(tmp_path, [3, 6])
    write_json(work.report, {"outcome": "Preempted"})
    with pytest.raises(MissingInputError, match=r"that run has not finished \(its outcome is Preempted\)"):
        find({"run": {"path": "earlier"}})
    assert find({"run": {"path": "earlier", "checkpoint": "Latest"}}).pin["step"] == 6


def test_a_checkpoint_with_a_flipped_byte_is_no_base(tmp_path: Path, find: Callable[..., Base]) -> None:
    work = write_run(tmp_path, [3, 6])
    path = work.checkpoints / "step-00000006" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"step-00000006/model\.safetensors: sha256"):
        find({"run": {"path": "earlier"}})


@pytest.mark.parametrize(
    ("schedule", "step", "constant"),
    [
        (INFINITE, 10, True),
        (INFINITE, 6, True),
        (INFINITE, 5, False),  # the border belongs to the cooldown
        ({**INFINITE, "anneal": {"length": "20%"}}, 8, True),
        ({**INFINITE, "anneal": {"length": "20%"}}, 9, False),
        ({"kind": "Constant", "peakLearningRate": 1e-3}, 10, False),
    ],
)
def test_where_an_infinite_schedule_is_constant(
    tmp_path: Path, find: Callable[..., Base], schedule: dict[str, Any], step: int, constant: bool
) -> None:
    write_run(tmp_path, [step], schedule=schedule)
    assert find({"run": {"path": "earlier"}}).pin["in_constant_segment"] is constant

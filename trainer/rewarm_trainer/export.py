"""A verified checkpoint as a Hugging Face folder, in the base's own type.

What leaves here is what the final verdict was measured on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import DataError, ManifestError, MissingInputError, Problem
from rewarm_trainer.checkpoint import WEIGHTS, Checkpoint, finished_of, open_checkpoints
from rewarm_trainer.corpus.tokenizer import FILES
from rewarm_trainer.state import best_step

if TYPE_CHECKING:
    from rewarm_trainer.weights.tensors import Planned

_CONFIGURATION = ("config.json", "generation_config.json")


def choose(workdir: Path, checkpoint: str | None) -> Checkpoint:
    """The checkpoint named `step-N`, N, `Final`, `Latest` or `Best`, every byte verified.

    By default `Final`: what `finish` made of the run, else its newest.
    """
    checkpoints = open_checkpoints(workdir)
    committed = checkpoints.committed()
    if not committed:
        raise MissingInputError(f"{workdir}: no committed checkpoint; let the run commit one first")
    name = (checkpoint or "Final").removeprefix("step-")
    finished = finished_of(workdir) if name == "Final" else None
    if finished:
        return finished
    if name in ("Latest", "Final"):
        return checkpoints.verify(committed[-1])
    if name == "Best":
        newest = checkpoints.verify(committed[-1])
        best = best_step(newest.state(), committed)
        return newest if best is None else checkpoints.verify(best)
    if not name.isdigit() or int(name) not in committed:
        raise MissingInputError(
            f"{workdir}: no checkpoint {checkpoint}; there are {', '.join(f'step-{step:08d}' for step in committed)}"
        )
    return checkpoints.verify(int(name))


def export_type(workdir: Path) -> str:
    """`F32`, `BF16` or `F16`: how the base keeps its weights."""
    path = workdir / "pins.json"
    return str(json.loads(path.read_text())["baseModel"].get("exportType", "F32")) if path.exists() else "F32"


def export(workdir: Path, checkpoint: str | None, out: Path) -> dict[str, Any]:
    """Write the checkpoint to `out`, a folder that `AutoModelForCausalLM.from_pretrained` loads; says what it wrote."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManifestError(
            Problem("OUT", f"{out}, which is not empty", "a new or empty folder", "choose another folder")
        )
    chosen = choose(workdir, checkpoint)

    from rewarm_trainer.weights.tensors import TYPES, write_tensors

    kind = export_type(workdir)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / WEIGHTS, _planned(chosen.folder, kind))
    copy_configuration(chosen.folder, out, str(TYPES[kind]).removeprefix("torch."))
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"path": str(out), "step": chosen.step, "type": kind, "bytes": size, "sha256": chosen.sha256}


def _planned(folder: Path, kind: str) -> dict[str, Planned]:
    """Every tensor of a checkpoint in type `kind`, however many files it lies in; each is read when it is written."""
    from rewarm_trainer.tensor_files import StoredTensors
    from rewarm_trainer.weights.tensors import TYPES, Planned

    stored = StoredTensors.of(folder, WEIGHTS)

    def plan(name: str) -> Planned:
        own, shape = stored.type_and_shape(name)
        return Planned(kind if TYPES[own].is_floating_point else own, shape, lambda: iter([stored[name]]))

    return {name: plan(name) for name in stored}


def copy_configuration(source: Path, out: Path, dtype: str) -> None:
    """Everything beside the weights that a model needs to load; `dtype` is torch's word for their type."""
    for name in (*_CONFIGURATION, *FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    path = out / "config.json"
    if not path.exists():
        raise DataError(f"{source}: no config.json in the checkpoint; it cannot be exported")
    config = json.loads(path.read_text())
    config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2) + "\n")

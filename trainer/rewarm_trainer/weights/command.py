"""`rewarm merge`: models of runs and of folders, by the same recipes as `finish`.

A run stands for its final model (what `finish` made of it, else its newest checkpoint), a folder for itself. Where a
run is known, its held-out documents choose and judge, and no document does both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.pins import Pins
from rewarm_trainer.checkpoint import folder_name, manifest_root, open_checkpoints
from rewarm_trainer.export import choose, export_type
from rewarm_trainer.weights import recipes, steps
from rewarm_trainer.weights.arithmetic import AverageKind
from rewarm_trainer.weights.card import merged_card
from rewarm_trainer.weights.merge import Baked, bake, check_new
from rewarm_trainer.weights.recipes import Recipe
from rewarm_trainer.weights.retention import average_steps
from rewarm_trainer.weights.tensors import Tensors
from rewarm_trainer.workdir import WorkFolder, read_snapshot


@dataclass
class Pantry:
    """The models of one command, where each came from, and the run whose documents choose and judge."""

    reference: Path | None = None
    known: dict[Path, dict[str, Any]] = field(default_factory=dict)
    types: dict[Path, str] = field(default_factory=dict)

    def model(self, path: Path) -> Tensors:
        """The final model of a run, or a folder. MissingInputError (66) when there is neither."""
        if not WorkFolder(path).snapshot.exists():
            if not path.is_dir():
                raise MissingInputError(f"{path}: no such folder; give the work folder of a run, or a model folder")
            return Tensors(path, str(path))
        if self.reference is None:
            self.reference = path
        checkpoint = choose(path, None)
        return self.checkpoint(path, checkpoint.folder, checkpoint.step, checkpoint.sha256, str(path))

    def checkpoint(self, run: Path, folder: Path, step: int, sha256: str, label: str) -> Tensors:
        snapshot = read_snapshot(WorkFolder(run))
        self.known[folder] = {
            "run": snapshot.name,
            "uid": snapshot.uid,
            "step": step,
            "checkpoint": f"sha256:{sha256}",
        }
        self.types[folder] = export_type(run)
        return Tensors(folder, label)

    def needs_reference(self, what: str) -> Path:
        if self.reference is None:
            raise ManifestError(
                Problem("--on", "nothing", f"a run whose held-out documents choose, for {what}", "add --on DIR")
            )
        return self.reference

    def bake(self, recipe: Recipe, out: Path, *, chose: bool, judge: bool) -> Baked:
        """The folder, in the type that its pattern is exported in."""
        dtype = self.types.get(recipe.pattern.folder)

        def judged(folder: Path) -> dict[str, Any]:
            if self.reference is None or not judge:
                return {}
            from rewarm_trainer.weights.bench import Bench

            return Bench.of(self.reference, folder).verdict(folder, chose)

        return bake(recipe, out, dtype, self.known, merged_card, judged)

    def taste(self, first: Tensors, what: str) -> Callable[[Recipe], tuple[float, float | None]]:
        """Scores candidates on the documents that choose; built when it is first asked."""
        reference = self.needs_reference(what)
        benches: list[Any] = []

        def taste(recipe: Recipe) -> tuple[float, float | None]:
            from rewarm_trainer.weights.bench import Bench

            if not benches:
                benches.append(Bench.of(reference, first.folder))
                benches[0].taster.check_choice()
            found: tuple[float, float | None] = benches[0].taster.taste(recipe)
            return found

        return taste


def average(run: Path, out: Path, *, last: int, kind: AverageKind, alpha: float, judge: bool = True) -> dict[str, Any]:
    """The last checkpoints of a run, by tokens; 66 when they are not all there any more."""
    check_new(out)
    work = WorkFolder(run)
    checkpoints = open_checkpoints(run)
    committed = checkpoints.committed()
    if not committed:
        raise MissingInputError(f"{run}: no committed checkpoint; let the run commit some first")
    if work.pins.exists():
        plan = Pins.model_validate_json(work.pins.read_text()).plan
        wanted = average_steps(plan, committed[-1], last)
    else:
        wanted = committed[-last:]
    missing = [step for step in wanted if step not in committed]
    if missing or len(wanted) < last:
        there = ", ".join(folder_name(step) for step in committed)
        raise MissingInputError(
            f"{run}: {last} checkpoints by tokens are asked for, there are {there}; train with checkpoints.keep: "
            f"{last} or with finish: [{{average: {{last: {last}}}}}], or average fewer"
        )
    pantry = Pantry(reference=run if work.pins.exists() and (work.state / "baseline").is_dir() else None)
    models = []
    for step in wanted:
        found = checkpoints.verify(step)
        label = folder_name(step)
        if work.snapshot.exists():
            models.append(pantry.checkpoint(run, found.folder, step, found.sha256, label))
        else:
            models.append(Tensors(found.folder, label))
    return facts(pantry.bake(recipes.average(models, kind, alpha), out, chose=False, judge=judge))


def soup(paths: Sequence[Path], out: Path, *, kind: str, on: Path | None, judge: bool = True) -> dict[str, Any]:
    """The mean of models; Greedy keeps those that lower the loss on documents that do not judge."""
    check_new(out)
    pantry = Pantry(reference=_reference(on))
    models = [pantry.model(path) for path in paths]
    greedy = kind == "Greedy"
    taste = pantry.taste(models[0], "--kind Greedy") if greedy else _never
    return facts(pantry.bake(steps.soup(models, kind, taste), out, chose=greedy, judge=judge))


def interpolate(
    path: Path, out: Path, *, towards_base: float | str, base: Path | None, on: Path | None, judge: bool = True
) -> dict[str, Any]:
    """Back towards the base: that of the run, or another by `base`."""
    check_new(out)
    pantry = Pantry(reference=_reference(on))
    trained = pantry.model(path)
    origin = _base_of(path) if base is None else pantry.model(base)
    auto = towards_base == "Auto"
    limit = None
    if auto:
        gates = read_snapshot(WorkFolder(pantry.needs_reference("--towards-base auto"))).gates
        limit = gates.max_forgetting if gates else None
    taste = pantry.taste(trained, "--towards-base auto") if auto else _never
    recipe = steps.interpolation(trained, origin, towards_base, taste, limit)
    return facts(pantry.bake(recipe, out, chose=auto, judge=judge))


def residual(path: Path, out: Path, *, instruct: Path, base: Path | None, judge: bool = True) -> dict[str, Any]:
    """What instruction tuning had changed in the base, added to a trained model."""
    check_new(out)
    pantry = Pantry()
    trained = pantry.model(path)
    reference = pantry.reference
    origin = _base_of(path) if base is None else pantry.model(base)
    recipe = recipes.instruction_residual(trained, pantry.model(instruct), origin)
    pantry.reference = reference
    return facts(pantry.bake(recipe, out, chose=False, judge=judge))


def facts(baked: Baked) -> dict[str, Any]:
    """What the command prints with -o json."""
    return {"path": str(baked.folder), **baked.lineage}


def _reference(on: Path | None) -> Path | None:
    if on is not None and not WorkFolder(on).pins.exists():
        raise MissingInputError(f"{on}: not a prepared work folder of a run (no pins.json); --on names such a run")
    return on


def _never(recipe: Recipe) -> tuple[float, float | None]:
    raise AssertionError("nothing is to be chosen")


def _base_of(run: Path) -> Tensors:
    """The base model of a run, as it was pinned."""
    from rewarm_trainer.base import locate
    from rewarm_trainer.run import cache_folder

    work = WorkFolder(run)
    if not work.pins.exists():
        raise ManifestError(Problem("--base", "nothing", f"the base model, since {run} is no run", "add --base FOLDER"))
    snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
    root = manifest_root(work)
    base = locate(snapshot, root, cache_folder(snapshot.cache_uri, root), pins.base_model)
    if base.folder is None:
        raise ManifestError(
            Problem("--base", "a run from scratch", "a base that was trained", "add --base FOLDER, or leave it")
        )
    return Tensors(base.folder, "the base model")

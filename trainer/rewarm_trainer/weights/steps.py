"""The steps of `finish`: each turns the model so far into another, by the recipes that `rewarm merge` uses too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewarm_api.snapshot import FinishStep
from rewarm_trainer.weights import recipes
from rewarm_trainer.weights.choice import dial, greedy_soup
from rewarm_trainer.weights.recipes import Recipe
from rewarm_trainer.weights.tensors import Tensors

Taste = Callable[[Recipe], tuple[float, float | None]]


@dataclass(frozen=True)
class Kitchen:
    """What steps may use: the last checkpoints, the models that finish names by field, the base, and a taster.

    `limit`: `gates.maxForgetting`, within which the dial is chosen.
    """

    last_checkpoints: Callable[[int], Sequence[Tensors]]
    named: Mapping[str, Tensors]
    base: Callable[[], Tensors]
    taste: Taste
    limit: float | None


def chooses(steps: Sequence[FinishStep]) -> bool:
    """Whether a choice is made by held-out documents: then those do not judge."""
    return any(
        (step.kind == "interpolate" and step.options["towardsBase"] == "Auto")
        or (step.kind == "soup" and step.options["kind"] == "Greedy")
        for step in steps
    )


def recipe_of(number: int, step: FinishStep, current: Tensors, kitchen: Kitchen) -> Recipe:
    """Step `number` of finish (from 0) on the model so far."""
    options, field = step.options, f"spec.finish[{number}].{step.kind}"
    if step.kind == "average":
        return recipes.average(kitchen.last_checkpoints(options["last"]), options["kind"], options["alpha"])
    if step.kind == "soup":
        others = [kitchen.named[f"{field}.runs[{index}]"] for index in range(len(options["runs"]))]
        return soup([current, *others], options["kind"], kitchen.taste)
    if step.kind == "interpolate":
        return interpolation(current, kitchen.base(), options["towardsBase"], kitchen.taste, kitchen.limit)
    base = kitchen.named.get(f"{field}.base") or kitchen.base()
    return recipes.instruction_residual(current, kitchen.named[f"{field}.instruct"], base)


def soup(models: Sequence[Tensors], kind: str, taste: Taste) -> Recipe:
    """The mean of all, or of those that a greedy choice keeps."""
    if kind == "Uniform":
        return recipes.soup(models, range(len(models)), soup=kind)
    found = greedy_soup(len(models), lambda kept: taste(recipes.soup(models, kept))[0])
    return recipes.soup(
        models,
        found.kept,
        soup=kind,
        candidates=[model.label for model in models],
        alone=list(found.alone),
        trials=[{"with": models[index].label, "meanDelta": value, "kept": kept} for index, value, kept in found.trials],
    )


def interpolation(
    trained: Tensors, base: Tensors, towards_base: float | str, taste: Taste, limit: float | None
) -> Recipe:
    """Back towards the base by a coefficient, or by the one that a dial chooses."""
    if towards_base != "Auto":
        return recipes.interpolation(trained, base, float(towards_base))
    chosen, trials = dial(lambda a: taste(recipes.interpolation(trained, base, a)), limit)
    return recipes.interpolation(trained, base, chosen, chosen="Auto", trials=[trial.to_json() for trial in trials])

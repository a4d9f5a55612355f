"""A model that is to be made of others: which ones, by what formula, and whose configuration and types it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from rewarm_trainer.weights import arithmetic
from rewarm_trainer.weights.arithmetic import Array
from rewarm_trainer.weights.fit import check_fit
from rewarm_trainer.weights.tensors import Planned, Tensors, as_float32, pieces

Formula = Callable[[Sequence[Array]], Array]


@dataclass(frozen=True)
class Recipe:
    """`formula` over `models`, weight by weight. `details` say in JSON what the formula is.

    `like`: index of the model whose names, types, configuration and tokenizer the result gets.
    """

    kind: str
    models: tuple[Tensors, ...]
    formula: Formula
    details: Mapping[str, Any]
    like: int = 0

    @property
    def pattern(self) -> Tensors:
        return self.models[self.like]

    @cached_property
    def names(self) -> list[str]:
        """Names of the weights, once the models were found to fit (65)."""
        common = set(check_fit(self.models))
        return [name for name in self.pattern.entries if name in common]

    def values(self, name: str) -> Iterator[torch.Tensor]:
        """One weight of the result, piece by piece along its first axis; what is no float is the pattern's own."""
        entry = self.pattern.entries[name]
        for begin, end in pieces(entry.shape):
            if entry.is_floating:
                parts = [as_float32(model.piece(name, begin, end)) for model in self.models]
                yield torch.from_numpy(self.formula(parts))
            else:
                yield self.pattern.piece(name, begin, end)

    def planned(self, dtype: str | None) -> dict[str, Planned]:
        """What a file of the result holds; floats as `dtype`, or each in the pattern's type."""
        plan = {}
        for name in self.names:
            entry = self.pattern.entries[name]
            kind = dtype if dtype and entry.is_floating else entry.dtype
            plan[entry.stored] = Planned(kind, entry.shape, partial(self.values, name))
        return plan


def weighted(kind: str, models: Sequence[Tensors], coefficients: Sequence[float], **details: Any) -> Recipe:
    """A linear combination whose coefficients add up to 1."""
    formula = partial(arithmetic.combine, coefficients=list(coefficients))
    return Recipe(kind, tuple(models), formula, {**details, "coefficients": list(coefficients)})


def plain(model: Tensors) -> Recipe:
    """A model as it is."""
    return weighted("copy", [model], [1.0])


def average(models: Sequence[Tensors], kind: arithmetic.AverageKind = "SMA", alpha: float = 0.2) -> Recipe:
    """Checkpoints of one run, oldest first; the newest is the pattern."""
    coefficients = arithmetic.averaging(kind, len(models), alpha)
    extra = {} if kind == "SMA" else {"alpha": alpha}
    recipe = weighted("average", models, coefficients, average=kind, **extra)
    return Recipe(recipe.kind, recipe.models, recipe.formula, recipe.details, like=len(models) - 1)


def soup(models: Sequence[Tensors], kept: Sequence[int], **details: Any) -> Recipe:
    """The mean of the models that stayed."""
    return weighted("soup", [models[index] for index in kept], arithmetic.uniform(len(kept)), **details)


def interpolation(trained: Tensors, base: Tensors, towards_base: float, **details: Any) -> Recipe:
    """(1 - a) * trained + a * base."""
    coefficients = [1.0 - towards_base, towards_base]
    return weighted("interpolate", [trained, base], coefficients, towardsBase=towards_base, **details)


def instruction_residual(trained: Tensors, instruct: Tensors, base: Tensors) -> Recipe:
    """trained + (instruct - base), with the configuration, chat template and types of the instruct model."""

    def formula(parts: Sequence[Array]) -> Array:
        return arithmetic.residual(*parts)

    words = {"formula": "trained + (instruct - base)"}
    return Recipe("instructResidual", (trained, instruct, base), formula, words, like=1)

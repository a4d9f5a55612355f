"""Candidates loaded into the model that was trained, and scored as the run scores. Every rank takes part.

Rank 0 alone reads files and decides; it tells the others what to do next, so that they never wait for different things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rewarm_api.errors import DataError, Preempted
from rewarm_api.snapshot import Role
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.evaluation import Documents, Scores
from rewarm_trainer.looks import Looks, rounded_to
from rewarm_trainer.sharding import is_sharded, put
from rewarm_trainer.weights.choice import selection
from rewarm_trainer.weights.recipes import Recipe
from rewarm_trainer.weights.tensors import pieces

SELECT, JUDGE, ASK, END, STOP = "select", "judge", "ask", "end", "stop"


@dataclass(frozen=True)
class Part:
    """Some documents of a set, in its order."""

    ids: Sequence[NDArray[Any]]
    bytes: Sequence[int]
    hashes: Sequence[str]
    labels: Sequence[str | None]
    dates: Sequence[str | None]

    @staticmethod
    def of(documents: Documents, mask: NDArray[np.bool_]) -> Part:
        def chosen(values: Sequence[Any]) -> list[Any]:
            return [value for value, wanted in zip(values, mask, strict=True) if wanted]

        return Part(
            chosen(documents.ids), chosen(documents.bytes), chosen(documents.hashes), chosen(documents.labels),
            chosen(documents.dates),
        )  # fmt: skip


def plain_names(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights by the names that `Tensors` uses: without the architecture's own prefix."""
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def load_recipe(weights: Mapping[str, Tensor], recipe: Recipe | None, world: int) -> None:
    """Put a model into `weights`, in place: computed on rank 0 (the others give None), handed to all."""
    if recipe is not None and weights.keys() - set(recipe.names):
        missing = sorted(weights.keys() - set(recipe.names))
        raise DataError(f"{recipe.pattern.label}: {len(missing)} weights are missing, the first is {missing[0]}")
    with torch.no_grad():
        for name in sorted(weights):
            place = weights[name]
            target = torch.empty(place.shape, dtype=place.dtype, device=place.device) if is_sharded(place) else place
            if recipe is not None:
                for (begin, end), piece in zip(pieces(target.shape), recipe.values(name), strict=True):
                    (target[begin:end] if target.shape else target).copy_(piece)
            if world > 1:
                torch.distributed.broadcast(target, src=0)
            if target is not place:
                put(place, target)


class Taster:
    """Scores candidates on the documents that choose, and the result on all."""

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        looks: Looks,
        *,
        rank: int,
        world: int,
        asked_to_stop: Callable[[], bool] = lambda: False,
        benchmarks: Benchmarks | None = None,
    ) -> None:
        self._model, self._weights, self._looks, self._benchmarks = model, weights, looks, benchmarks
        self._rank, self._world, self._asked_to_stop = rank, world, asked_to_stop
        self.masks = {name: selection(chosen.documents.hashes) for name, chosen in looks.sets.items()}

    # --- rank 0 --------------------------------------------------------------------------------------------------

    def check_choice(self) -> None:
        """DataError (65) when there are no documents to choose by."""
        if not any(mask.any() for mask in self.masks.values()):
            raise DataError(
                "finish: found no evaluation set of 3 documents or more, expected documents to choose by; "
                "raise spec.evaluation.heldOut.minimumDocuments, or choose without Auto and Greedy"
            )

    def taste(self, recipe: Recipe) -> tuple[float, float | None]:
        """Mean change against the base over all sets, and the largest over Retained sets, on what chooses."""
        scores = self._do(SELECT, recipe)
        changes: dict[Role, list[float]] = {Role.NEW: [], Role.RETAINED: []}
        for name, found in scores.items():
            mask = self.masks[name]
            base = self._looks.baseline_of(name)
            change = float((found.nats - base.nats[mask]).sum() / found.labels.sum())
            changes[self._looks.sets[name].role].append(change)
        every = [change for role in changes.values() for change in role]
        retained = changes[Role.RETAINED]
        return sum(every) / len(every), max(retained) if retained else None

    def judge(self, recipe: Recipe) -> dict[str, Scores]:
        """Every document of every set, on the weights as they will be exported."""
        return self._do(JUDGE, recipe)

    def ask(self) -> dict[str, Any]:
        """The benchmarks, of the model that was judged last."""
        if self._benchmarks is None:
            return {}
        self._may_go_on()
        self._tell((ASK, None))
        return self._benchmarks.final(self._model)

    def end(self, result: Any) -> Any:
        """The others may go on; they get the result too."""
        return self._tell((END, result))[1]

    def _may_go_on(self) -> None:
        if self._asked_to_stop():
            self._tell((STOP, None))
            raise Preempted("stopped while finishing, as asked; the same command goes on from the last checkpoint")

    def _do(self, what: str, recipe: Recipe) -> dict[str, Scores]:
        self._may_go_on()
        assert recipe.names
        self._tell((what, None))
        return self._perform(what, recipe)

    # --- the others ----------------------------------------------------------------------------------------------

    def follow(self) -> Any:
        """Take part until rank 0 has its result."""
        while True:
            what, value = self._tell(None)
            if what == END:
                return value
            if what == STOP:
                raise Preempted("stopped while finishing, as asked")
            if what == ASK and self._benchmarks is not None:
                self._benchmarks.final(self._model)
                continue
            self._perform(what, None)

    # --- all -----------------------------------------------------------------------------------------------------

    def _tell(self, message: Any) -> Any:
        box = [message]
        if self._world > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def _perform(self, what: str, recipe: Recipe | None) -> dict[str, Scores]:
        load_recipe(self._weights, recipe, self._world)
        if what == JUDGE:
            with rounded_to(self._model, self._looks.export_type):
                return {name: self._looks.score(chosen.documents) for name, chosen in self._looks.sets.items()}
        return {
            name: self._looks.score(Part.of(chosen.documents, self.masks[name]))
            for name, chosen in self._looks.sets.items()
            if self.masks[name].any()
        }

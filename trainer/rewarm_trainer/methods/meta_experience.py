"""Meta-experience replay: a Reptile step over the weights every k updates (2508.01908, read second-hand [S]).

    theta_{t-k} --- k ordinary updates over new and replayed text ---> theta_t
         `--------- epsilon ---------> theta_{t-k} + epsilon * (theta_t - theta_{t-k})

The same interpolation as Nichol et al. 2018 (1803.02999) in the authors' code (openai/supervised-reptile). It moves
weights only: Adam's moments and the learning rate go on as if nothing had happened. Every rank holds the same weights
and computes the same step, so nothing is exchanged. Holds one more copy of the trained weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rewarm_api.errors import DataError

ANCHOR = "anchor.safetensors"
"""theta_{t-k} in a checkpoint, beside the weights and the optimizer."""


class MetaExperience:
    """Reptile steps over `parameters` (by name, those that are trained), every `interval` updates and at `last`.

    The last update of the plan ends its period however short, so that the weights that are judged and released are
    always those after a Reptile step. `epsilon` 1 changes no bit, 0 puts every period's start back.
    """

    file = ANCHOR

    def __init__(self, parameters: Mapping[str, Tensor], *, interval: int, epsilon: float, last: int) -> None:
        self._parameters = dict(parameters)
        self._interval, self._epsilon, self._last = interval, epsilon, last
        self._anchor: dict[str, Tensor] = {}
        self.start()

    def start(self) -> None:
        """A period begins at the weights as they are now."""
        self._anchor = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def ends_period(self, step: int) -> bool:
        """Whether a Reptile step follows update `step` (from 1)."""
        return step % self._interval == 0 or step == self._last

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """To be called after every update; queues work on the device and never waits for it."""
        if not self.ends_period(step):
            return
        for name, parameter in self._parameters.items():
            anchor = self._anchor[name]
            # lerp is exact at both ends: it gives the anchor itself at 0 and the parameter itself at 1.
            anchor.lerp_(parameter, self._epsilon)
            parameter.copy_(anchor)

    def tensors(self) -> dict[str, Tensor]:
        """What an exact resume inside a period needs."""
        return dict(self._anchor)

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Put a saved period's start back; one of another model is refused (DataError)."""
        if tensors.keys() != self._anchor.keys():
            differing = sorted(tensors.keys() ^ self._anchor.keys())
            raise DataError(
                f"{where}: does not fit the weights that are trained, the first that differs: {differing[0]}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != self._anchor[name].shape:
                raise DataError(
                    f"{where}: {name} has shape {tuple(tensor.shape)}, expected {tuple(self._anchor[name].shape)}"
                )
            self._anchor[name].copy_(tensor)

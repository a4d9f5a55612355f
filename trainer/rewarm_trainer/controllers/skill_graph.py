"""`mixture.skillGraph`: rows go where losses are high and training helps (Skill-it, Chen et al. 2023, 2307.14430).

    p_1[i]     = softmax_i(eta sum_j A_ij)
    p_{t+1}[i] = softmax_i(eta sum_j A_ij sum_{tau = t-w+1..t} L_j(tau))       A_ii = 1, A_ij > 0: training on i helps j

As in the authors' code every update starts from even weights again, not from p_t, and losses are summed over the last w
updates. L_j is the loss of source j on its held-out set, nats per token. Without edges a source's share follows its own
loss alone. Weighs the corpus; replay keeps its own weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewarm_trainer.controllers.protocol import (
    WEIGHTS_MOVED,
    Decision,
    Losses,
    Progress,
    at_mark,
    fires_at,
    rounded_shares,
)

Graph = Mapping[tuple[str, str], float]
"""A_ij by (i, j): training on i helps j. The diagonal is 1 where nothing is said."""


def first_shares(names: Sequence[str], graph: Graph, rate: float) -> dict[str, float]:
    """p_1: what helps much comes first."""
    return next_shares(graph, rate, dict.fromkeys(names, 1.0))


def next_shares(graph: Graph, rate: float, summed: Mapping[str, float]) -> dict[str, float]:
    """p_{t+1} from the losses by source, summed over the window. They sum to 1; the largest exponent is taken out."""
    exponents = {
        one: rate * math.fsum(graph.get((one, other), float(one == other)) * loss for other, loss in summed.items())
        for one in summed
    }
    largest = max(exponents.values())
    values = {name: math.exp(exponent - largest) for name, exponent in exponents.items()}
    total = math.fsum(values.values())
    return {name: value / total for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class SkillGraph:
    """Moves the weights of the corpus every `every` tokens. `rate` is eta, `window` w."""

    rate: float
    window: int
    graph: Graph
    every: int

    def __call__(self, progress: Progress, losses: Losses) -> Decision | None:
        """p_1 before the first update, WeightsMoved at each mark at which every source has finite losses."""
        names = sorted(progress.corpus)
        if progress.step == 0:
            return self._moved(first_shares(names, self.graph, self.rate), "what helps the others comes first")
        if not at_mark(progress, self.every):
            return None
        summed = {name: self._window(progress, losses, name) for name in names}
        if not all(map(math.isfinite, summed.values())):
            return None
        told = ", ".join(f"{name} {value:.3f}" for name, value in summed.items())
        return self._moved(next_shares(self.graph, self.rate, summed), f"losses summed over the window: {told}")

    def _window(self, progress: Progress, losses: Losses, name: str) -> float:
        history = losses.get(name)
        found = [
            look.loss for look in (history.looks if history else ()) if fires_at(progress.plan, self.every, look.tokens)
        ]
        return math.fsum(found[-self.window :]) if found else math.nan

    def _moved(self, shares: Mapping[str, float], why: str) -> Decision:
        weights = rounded_shares(shares)
        return Decision(WEIGHTS_MOVED, why, weights=weights, facts={"weights": weights})

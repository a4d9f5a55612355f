"""`mixture.domainDiscrepancy`: rows go where the model is furthest behind its teacher (DDK, 2407.16154).

    r_0[i] = softmax_i(S_i / T_i)          S, T: perplexity of model and teacher on the held-out set of source i
    psi[i] = r_t[i] exp(S_i / T_i)
    r_{t+1}[i] = (1 - smoothing) psi[i] / sum_j psi[j] + smoothing / N

The paper's alpha is 1 - smoothing. Only the sampling of the paper, not its distillation loss (gamma KL against the
teacher on every batch): that costs a forward pass of the teacher for every row trained on.

The teacher of the old domains is the base model, so S_i / T_i = exp(delta_i), delta_i the paired difference to the
baseline on the same documents: above 1 where the model has forgotten. The teacher of the corpus is the base too (then
the ratio is highest where the model has gained least) or a model that knows the domains. The rule weighs the sources
within a group: how much is replayed stays with `replay.ratio` and `replay.adaptive`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rewarm_trainer.controllers.protocol import (
    WEIGHTS_MOVED,
    Decision,
    Losses,
    Progress,
    at_mark,
    bounded_shares,
    rounded_shares,
)


def first_shares(ratios: Mapping[str, float]) -> dict[str, float]:
    """r_0 from the ratios S / T by source."""
    return _normal({name: (1.0, ratio) for name, ratio in ratios.items()})


def next_shares(before: Mapping[str, float], ratios: Mapping[str, float], smoothing: float) -> dict[str, float]:
    """r_{t+1} from r_t and the ratios S / T by source. Each is at least smoothing / N; they sum to 1."""
    psi = _normal({name: (before[name], ratio) for name, ratio in ratios.items()})
    return {name: (1 - smoothing) * share + smoothing / len(psi) for name, share in psi.items()}


def _normal(terms: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """weight x exp(exponent), as shares; the largest exponent is taken out before exp, so that none overflows."""
    largest = max(exponent for _, exponent in terms.values())
    values = {name: weight * math.exp(exponent - largest) for name, (weight, exponent) in terms.items()}
    total = math.fsum(values.values())
    return {name: value / total for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class DomainDiscrepancy:
    """Moves the weights in both groups every `every` tokens."""

    smoothing: float
    every: int

    def __call__(self, progress: Progress, losses: Losses) -> Decision | None:
        """WeightsMoved at each mark at which every source of a group has a finite loss; r_0 before the first update,
        unless the base is its own teacher: then r_0 is even, as the weights are that a run starts with."""
        first = progress.step == 0
        if not (progress.teacher if first else at_mark(progress, self.every)):
            return None
        weights: dict[str, float] = {}
        ratios: dict[str, float] = {}
        for group in (progress.corpus, progress.replay):
            behind = {name: _ratio(progress, losses, name) for name in group}
            if len(group) < 2 or not all(map(math.isfinite, behind.values())):
                continue
            whole = sum(group.values())
            before = {name: weight / whole for name, weight in group.items()}
            shares = first_shares(behind) if first else next_shares(before, behind, self.smoothing)
            if group is progress.replay:
                shares = bounded_shares(shares, progress)
            weights |= rounded_shares(shares)
            ratios |= {name: round(value, 4) for name, value in behind.items()}
        if not weights:
            return None
        worst = max(ratios, key=lambda name: ratios[name])
        why = f"perplexity over the teacher's: {_words(ratios)}; {worst} is furthest behind"
        return Decision(WEIGHTS_MOVED, why, weights=weights, facts={"weights": weights, "ratios": ratios})


def _ratio(progress: Progress, losses: Losses, name: str) -> float:
    """S / T by the newest look, of the same documents; nan without one."""
    history = losses.get(name)
    if history is None or not history.looks:
        return math.nan
    look, taught = history.looks[-1], progress.teacher.get(name)
    if taught is not None:
        difference = look.loss - taught["full" if look.delta is None else "look"]
    else:
        difference = math.nan if look.delta is None else look.delta.mean
    try:
        return math.exp(difference)
    except OverflowError:
        return math.inf


def _words(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(ratios.items()))

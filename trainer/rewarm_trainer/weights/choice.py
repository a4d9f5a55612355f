"""Which models to average, and how far to go back to the base: chosen by losses that others measure. Pure.

The documents that choose are never those that judge: `selection` splits a set by the hashes of its documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SELECTION_SHARE = 3
"""One document in so many chooses; the others judge."""
COARSE = 0.1
FINE = 0.05


def selection(hashes: Sequence[str]) -> NDArray[np.bool_]:
    """Which documents choose: the third of them with the smallest sha256("rewarm-selection-v1" + hash).

    A function of the documents alone, not of seeds, order or models. Shape [documents].
    """
    keys = [hashlib.sha256(b"rewarm-selection-v1" + text.encode()).digest() for text in hashes]
    chosen = sorted(range(len(keys)), key=keys.__getitem__)[: len(keys) // SELECTION_SHARE]
    mask = np.zeros(len(keys), dtype=np.bool_)
    mask[chosen] = True
    return mask


@dataclass(frozen=True)
class Soup:
    """A greedy soup: the ingredients that stayed, the metric of each alone, and what each trial gave."""

    kept: tuple[int, ...]
    alone: tuple[float, ...]
    metric: float
    trials: tuple[tuple[int, float, bool], ...]
    """(ingredient, metric of the soup with it, whether it stayed), in order of trial."""


def greedy_soup(count: int, metric: Callable[[tuple[int, ...]], float]) -> Soup:
    """Wortsman et al. 2022 (2203.05482), Recipe 1, for a `metric` that is better when lower.

    The best alone begins; each other, best first, stays if the mean with it is strictly better. `metric` takes the
    indices of the models whose mean it measures. Equal ones are taken in order of index.
    """
    if count < 1:
        raise ValueError("a soup of no model")
    alone = tuple(metric((index,)) for index in range(count))
    order = sorted(range(count), key=lambda index: (not np.isfinite(alone[index]), alone[index], index))
    kept: tuple[int, ...] = (order[0],)
    best = alone[order[0]]
    trials = []
    for index in order[1:]:
        found = metric((*kept, index))
        stays = found < best
        trials.append((index, found, stays))
        if stays:
            kept, best = (*kept, index), found
    return Soup(tuple(sorted(kept)), alone, best, tuple(trials))


@dataclass(frozen=True)
class Trial:
    """One coefficient: `loss` is the mean over all sets of the change against the base (nats per token, lower is
    better), `forgetting` the largest change over Retained sets (None without such a set)."""

    towards_base: float
    loss: float
    forgetting: float | None

    def to_json(self) -> dict[str, Any]:
        return {"towardsBase": self.towards_base, "meanDelta": self.loss, "forgetting": self.forgetting}


def dial(measure: Callable[[float], tuple[float, float | None]], limit: float | None) -> tuple[float, list[Trial]]:
    """The coefficient towards the base, and every trial in order of coefficient.

    Tries 0, 0.1, ..., 1, then both neighbours of the best at half that distance. The best has the lowest mean change
    over all sets among those whose forgetting is within `limit` (`gates.maxForgetting`; None: all). 1 is the base
    itself, which forgot nothing, so one is always within. Of equal ones the smallest coefficient, which keeps most
    of what was learned.
    """
    trials: dict[float, Trial] = {}

    def attempt(coefficient: float) -> None:
        if 0 <= coefficient <= 1 and coefficient not in trials:
            trials[coefficient] = Trial(coefficient, *measure(coefficient))

    for step in range(round(1 / COARSE) + 1):
        attempt(round(step * COARSE, 4))
    centre = best_trial(trials, limit)
    for coefficient in (centre - FINE, centre + FINE):
        attempt(round(coefficient, 4))
    return best_trial(trials, limit), [trials[coefficient] for coefficient in sorted(trials)]


def best_trial(trials: Mapping[float, Trial], limit: float | None) -> float:
    """The coefficient of the best trial; without one that is within the limit, that of least forgetting."""
    finite = [trial for trial in trials.values() if np.isfinite(trial.loss)] or list(trials.values())
    within = [trial for trial in finite if limit is None or trial.forgetting is None or trial.forgetting <= limit]
    if within:
        return min(within, key=lambda trial: (trial.loss, trial.towards_base)).towards_base
    return min(finite, key=lambda trial: (trial.forgetting, trial.towards_base)).towards_base

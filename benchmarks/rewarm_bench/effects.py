"""What replay did, with intervals: from per-document results of two runs that continued the same base.

Pure. An effect is a difference of summed nats over the same documents; `effect` intervals are the runs' own
(`report.json`), only what no single run can say is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
# (summed difference of each arm, ..., labels) -> the effect; on numbers and on arrays alike.
Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def negative(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class PerDocument:
    """One evaluation set before and after a run: summed nats and labels of each document."""

    hashes: tuple[str, ...]
    baseline: NDArray[np.float64]
    final: NDArray[np.float64]
    labels: NDArray[np.float64]

    @property
    def difference(self) -> NDArray[np.float64]:
        return self.final - self.baseline


def same_documents(first: PerDocument, second: PerDocument) -> None:
    """Effects are paired: ValueError when two arms did not score the same documents against the same base."""
    if first.hashes != second.hashes:
        raise ValueError("the arms scored different documents; remove their folders and run all of them again")
    if not np.allclose(first.baseline, second.baseline, rtol=1e-5, atol=1e-3):
        raise ValueError("the arms continued different bases; remove their folders and run all of them again")


def removed_fraction(
    without: Sequence[PerDocument], replay: Sequence[PerDocument], control: Sequence[PerDocument] | None = None
) -> Estimate:
    """1 - forgetting with replay / forgetting without; one pair of arms per seed.

    Both are measured from the base, or with `control` from an arm that was continued on the old text alone.
    Interval: percentiles of a paired bootstrap, documents drawn once for both arms of a pair; with several pairs
    seeds are drawn too.
    """
    if control is None:
        return _bootstrap([without, replay], lambda plain, mixed, labels: 1 - mixed / plain)
    return _bootstrap(
        [without, replay, control], lambda plain, mixed, alone, labels: 1 - (mixed - alone) / (plain - alone)
    )


def mean_delta(runs: Sequence[PerDocument]) -> Estimate:
    """Final minus baseline in nats per token over several seeds, seeds and documents both drawn."""
    return _bootstrap([runs], lambda total, labels: total / labels)


def _bootstrap(arms: Sequence[Sequence[PerDocument]], statistic: Statistic) -> Estimate:
    """`arms` hold one run per seed each; `statistic` gets the summed difference of each arm, then the labels."""
    first = arms[0]
    for runs in arms:
        for own, other in zip(first, runs, strict=True):
            same_documents(own, other)
            if own.hashes != first[0].hashes:
                raise ValueError("the seeds scored different documents; they must share one corpus")
    # values[kind, seed, document]
    values = np.array([[run.difference for run in runs] for runs in arms] + [[run.labels for run in first]])
    random = np.random.Generator(np.random.PCG64(0))
    count = len(first[0].hashes)
    # A multinomial of counts is the same draw as indices. All seeds scored the same documents, so one draw serves all:
    # documents of their own for each seed would pretend to more documents than there are.
    documents = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    seeds = random.multinomial(len(first), np.full(len(first), 1 / len(first)), size=RESAMPLES)
    resampled = statistic(*np.einsum("ksd,rd,rs->kr", values, documents, seeds, optimize=True))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(statistic(*values.sum(axis=(1, 2)))), float(low), float(high))

"""What replay did, with intervals: from per-document results of two runs that continued the same base.

Pure. An effect is a difference of summed nats over the same documents; `effect` intervals are the runs' own
(`report.json`), only what no single run can say is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.statistics import Delta, ratio_interval
from rewarm_trainer.statistics_seeds import hierarchical_ratio


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

    Both are measured from the base, or with `control` from an arm that was continued on the old text alone. One pair:
    the product's interval over documents; several: its interval over seeds and documents.
    """
    _check([without, replay] if control is None else [without, replay, control])
    removed = [plain.difference - mixed.difference for plain, mixed in zip(without, replay, strict=True)]
    forgot = [plain.difference for plain in without]
    if control is not None:
        forgot = [plain - alone.difference for plain, alone in zip(forgot, control, strict=True)]
    return _ratio(removed, forgot, [run.labels for run in without])


def mean_delta(runs: Sequence[PerDocument]) -> Estimate:
    """Final minus baseline in nats per token, over seeds and documents."""
    _check([runs])
    labels = [run.labels for run in runs]
    return _ratio([run.difference for run in runs], labels, labels)


def _check(arms: Sequence[Sequence[PerDocument]]) -> None:
    """ValueError unless every run scored the same documents, and the arms of a seed continued one base."""
    first = arms[0]
    for runs in arms:
        for own, other in zip(first, runs, strict=True):
            same_documents(own, other)
            if own.hashes != first[0].hashes:
                raise ValueError("the seeds scored different documents; they must share one corpus")


Numbers = NDArray[np.float64]


def _ratio(tops: Sequence[Numbers], bottoms: Sequence[Numbers], labels: Sequence[Numbers]) -> Estimate:
    """sum(top) / sum(bottom) with its interval."""
    if len(tops) == 1:
        top, bottom, own = tops[0], bottoms[0], labels[0]
        return _estimate(ratio_interval(float(top.sum() / bottom.sum()), top, bottom, own))
    return _estimate(hierarchical_ratio(tops, bottoms, labels))


def _estimate(delta: Delta) -> Estimate:
    return Estimate(delta.mean, delta.low, delta.high)

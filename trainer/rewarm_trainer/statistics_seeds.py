"""Decides how sure a difference between two recipes is, from several seeds. Never reads a model, a file or a clock.

Each seed trained both sides anew and scored the same documents. Two things vary, and more documents cure only one:

    d[seed, document]      seed      another seed, another model     V_seed = variance of the seeds' deltas / seeds
    same documents in      document  another sample of documents     V_document of the seeds' mean (statistics.py)
    one order
                   interval = the widest of    V_seed + V_document   t of Welch and Satterthwaite
                                               V_seed                t, seeds - 1 degrees of freedom
                                               V_document            the document interval

Welch's alone covers too little where seeds matter most: a V_seed that came out small by chance also claims too many
degrees of freedom. The t interval beside it heals that. Where the noise of single cells (seed and document together) is
all there is, the sum counts it twice: too wide, never too narrow.

Why no percentile bootstrap over seeds: three seeds drawn with replacement vary by a factor sqrt(2/3) too little and
know nothing of t tails (4.3 instead of 1.96 standard errors at two degrees of freedom). Coverage of both:
benchmarks/science/calibration.py, table in docs/statistics.md.

Sources: degrees of freedom of a sum of variances, Satterthwaite 1946 [R]; the sum is the two-way cluster variance of
Cameron, Gelbach and Miller 2011 [R] without its last term, the noise of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtr, stdtrit

from rewarm_trainer.statistics import CONFIDENCE, RESAMPLES, Delta, Numbers, freedom_of, ratio_interval

UPPER_TAIL = (1 + CONFIDENCE) / 2
# Degrees of freedom of a variance that is known.
MANY = 1e12


def hierarchical_interval(
    differences: list[np.ndarray], labels: list[np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0
) -> Delta:
    """The difference of two recipes: the mean over seeds of delta = sum(d_i) / sum(n_i), nats per token.

    One array per seed, one number per document: `differences` summed nats, candidate minus baseline, `labels` scored
    tokens. Seeds with equally many documents are taken to have scored the same ones in the same order; else their
    documents are independent, and the t interval over the seeds' deltas stands alone. `documents` counts the
    documents of a seed, or of all seeds where they differ; `resamples` and `seed` are the document bootstrap's.

    Seeds that agree exactly give the document interval of their mean; documents without number give the t interval
    over seeds. One seed has no interval (nan): it says nothing about another. Raises ValueError for no seed, for
    unlike lengths and for labels below zero.
    """
    return hierarchical_ratio(differences, labels, labels, resamples=resamples, seed=seed)


def hierarchical_share_removed(
    untreated: list[np.ndarray], treated: list[np.ndarray], labels: list[np.ndarray]
) -> Delta:
    """Which share of the forgetting a recipe removed, `(F_0 - F_m) / F_0` (science.md section 21), over seeds.

    Arguments as for `hierarchical_interval`. All nan when the untreated forgetting is not clearly above zero.
    """
    forgetting = hierarchical_interval(untreated, labels)
    if not forgetting.low > 0:
        return replace(forgetting, mean=math.nan, low=math.nan, high=math.nan, p=math.nan)
    removed = [np.subtract(without, with_it) for without, with_it in zip(untreated, treated, strict=True)]
    return hierarchical_ratio(removed, untreated, labels)


def hierarchical_ratio(
    tops: Sequence[np.ndarray],
    bottoms: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Delta:
    """sum over seeds of sum(top) / S, over the same of bottom, S = a seed's labels; with the interval as above."""
    tops, bottoms, labels = _checked(tops, bottoms, labels)
    sizes = [float(own.sum()) for own in labels]
    seeds, same = len(tops), len({len(own) for own in tops}) == 1
    documents = len(tops[0]) if same else sum(map(len, tops))
    if not all(sizes):
        return Delta(math.nan, math.nan, math.nan, math.nan, documents=documents)
    above = np.array([float(top.sum()) / size for top, size in zip(tops, sizes, strict=True)])
    below = np.array([float(bottom.sum()) / size for bottom, size in zip(bottoms, sizes, strict=True)])
    ratio = float(above.sum() / below.sum()) + 0.0 if below.sum() else math.nan
    if seeds < 2 or not math.isfinite(ratio):
        return Delta(ratio, math.nan, math.nan, math.nan, documents=documents)
    between = float(np.var(above - ratio * below, ddof=1)) / seeds / float(below.mean()) ** 2
    if not same:
        known = Delta(ratio, ratio, ratio, _two_sided(ratio, 0.0, 1), documents=documents)
        return _widened(known, between, seeds - 1, MANY)
    mean_top, mean_bottom, mean_labels = (_mean_share(arrays, sizes) for arrays in (tops, bottoms, labels))
    within = ratio_interval(ratio, mean_top, mean_bottom, mean_labels, resamples=resamples, seed=seed)
    if not math.isfinite(within.high - within.low):
        return within
    return _widened(within, between, seeds - 1, freedom_of(mean_labels))


def _widened(within: Delta, between: float, seed_freedom: float, document_freedom: float) -> Delta:
    """`within`, the document interval of the seeds' mean, widened by the variance between seeds.

    A side's document variance is (its reach / its t quantile)^2, so that the wider of the two document intervals
    counts, and its asymmetry stays. p belongs to the side towards zero: p < 0.05 exactly when zero is outside.
    """
    if not between:
        return within
    quantile = float(stdtrit(document_freedom, UPPER_TAIL))
    sides = []
    for reach in (within.mean - within.low, within.high - within.mean):
        inside = (reach / quantile) ** 2
        total = between + inside
        freedom = total**2 / (between**2 / seed_freedom + inside**2 / document_freedom)
        sides.append([(total, freedom), (between, seed_freedom), (inside, document_freedom)])
    below, above = (max(float(stdtrit(f, UPPER_TAIL)) * math.sqrt(v) for v, f in side) for side in sides)
    p = max(_two_sided(within.mean, *each) for each in sides[0 if within.mean > 0 else 1])
    return replace(within, low=within.mean - below, high=within.mean + above, p=p)


def _two_sided(mean: float, variance: float, freedom: float) -> float:
    """p of a mean of that variance by Student's t."""
    if not variance:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(mean) / math.sqrt(variance)))


def _mean_share(arrays: Sequence[Numbers], sizes: Sequence[float]) -> Numbers:
    """Per document: the mean over seeds of its number over that seed's labels."""
    mean: Numbers = np.mean([own / size for own, size in zip(arrays, sizes, strict=True)], axis=0)
    return mean


def _checked(*groups: Sequence[np.ndarray]) -> tuple[list[Numbers], ...]:
    """Each group as float arrays; ValueError unless every seed has one number per document in each group."""
    arrays = tuple([np.asarray(own, dtype=np.float64) for own in group] for group in groups)
    shapes = [[own.shape for own in group] for group in arrays]
    if not shapes[0] or any(found != shapes[0] for found in shapes) or any(len(shape) != 1 for shape in shapes[0]):
        raise ValueError(f"one number for each document of each seed expected, found shapes {shapes}")
    if any((own < 0).any() for own in arrays[-1]):
        raise ValueError("labels below zero")
    return arrays

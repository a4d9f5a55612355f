"""Decides how sure a difference between two models is. Never reads a model, a file or a clock.

Two models scored the same documents. Document i has n_i labels, and its summed loss differs by d_i nats (candidate
minus baseline). The difference is `delta = sum(d_i) / sum(n_i)`, nats per token, weighted by tokens: a ratio estimate
whose clusters are the documents, because tokens within a document are not independent.

The 95 % interval is the wider (by width) of two, since each alone covers too little somewhere:
(a) the leverage-corrected cluster interval (HC3: MacKinnon and White 1985; effective number of clusters: Kish 1965);
(b) the studentised (percentile-t) bootstrap over documents (Efron 1979; Hall 1988).

Document intervals do not see seed noise: they judge two checkpoints, never two recipes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
MINIMUM_DOCUMENTS = 30
# Drawn at a time: fits a core's cache, and bounds memory at any number of documents. Never changes a number.
CHUNK_DRAWS = 1 << 17
# A spread this far below the size of the numbers is what rounding leaves of no spread at all.
NO_SPREAD = 1e-12

Numbers = NDArray[np.float64]
Verdict = Literal["Win", "Lose", "Tie"]


@dataclass(frozen=True, slots=True)
class Delta:
    """An estimate and its interval: for losses in nats per token, below zero is better.

    `p` is two-sided, for "no difference"; `documents` is how many were compared. What cannot be known is nan.
    """

    mean: float
    low: float
    high: float
    p: float
    confidence: float = CONFIDENCE
    documents: int = 0

    def to_json(self) -> dict[str, Any]:
        """Numbers that are not finite become None."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Delta:
        """The inverse of `to_json`; None becomes nan, `p` and `documents` may be missing."""

        def number(key: str) -> float:
            found = value.get(key)
            return math.nan if found is None else float(found)

        confidence = value.get("confidence", CONFIDENCE)
        return Delta(number("mean"), number("low"), number("high"), number("p"), confidence, value.get("documents", 0))


def paired_delta(
    difference: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Delta:
    """The difference of two models over the same documents, with its interval.

    `difference`: summed nats of each document, candidate minus baseline; `labels`: scored tokens of each document.
    `resamples` and `seed` are the bootstrap's; every number that Rewarm reports has the defaults.
    All differences zero give [0, 0] and p = 1. Fewer than two documents with labels have no interval (nan), as do
    differences that are not finite. Raises ValueError for unlike lengths or negative labels.
    """
    d, n = _same_length(difference, labels)
    if (n < 0).any():
        raise ValueError(f"labels below zero: {n.min()}")
    total = float(n.sum())
    mean = float(d.sum()) / total + 0.0 if total else math.nan
    return ratio_interval(mean, d, n, n, resamples=resamples, seed=seed, confidence=confidence)


def share_removed(untreated: ArrayLike, treated: ArrayLike, labels: ArrayLike) -> Delta:
    """Which share of the forgetting a treatment (such as replay) removed: `(F_0 - F_m) / F_0`, science.md section 21.

    `untreated` and `treated`: summed nats of each document above the same baseline, without and with the treatment.
    The same two intervals around the ratio of their sums. All nan when the untreated forgetting is not clearly above
    zero: then there is nothing to take a share of.
    """
    u, n = _same_length(untreated, labels)
    t, _ = _same_length(treated, labels)
    if not paired_delta(u, n).low > 0:
        return Delta(math.nan, math.nan, math.nan, math.nan, documents=len(u))
    return ratio_interval(float((u - t).sum()) / float(u.sum()), u - t, u, n)


def verdict(delta: Delta) -> Verdict | None:
    """Win when the whole interval is below zero, Lose when above, else Tie.

    None below 30 documents, or without an interval.
    """
    if delta.documents < MINIMUM_DOCUMENTS or math.isnan(delta.low) or math.isnan(delta.high):
        return None
    if delta.high < 0:
        return "Win"
    return "Lose" if delta.low > 0 else "Tie"


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[Numbers, Numbers]:
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"one number for each document expected, found shapes {one.shape} and {two.shape}")
    return one, two


def ratio_interval(
    ratio: float,
    top: Numbers,
    bottom: Numbers,
    labels: Numbers,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Delta:
    """The interval of `ratio` = sum(top) / sum(bottom) over documents of `labels` tokens."""
    documents, tails = len(top), ((1 - confidence) / 2, (1 + confidence) / 2)
    unknown_interval = Delta(ratio, math.nan, math.nan, math.nan, confidence, documents)
    if not math.isfinite(ratio) or not np.isfinite(top).all() or not np.isfinite(bottom).all():
        return replace(unknown_interval, mean=math.nan)
    if np.count_nonzero(labels) < 2:
        return unknown_interval
    residual = top - ratio * bottom
    negligible = NO_SPREAD * math.sqrt(float(np.mean(top**2)))
    if math.sqrt(float(np.mean(residual**2))) <= negligible:
        # Every document changed alike: no spread to resample. Beyond the observed value stands nothing, or everything.
        return Delta(ratio, ratio, ratio, 1.0 if ratio == 0 else 2 / (resamples + 1), confidence, documents)
    size = abs(float(bottom.sum()))
    error = math.sqrt(float(np.sum(residual**2))) / size
    reach = _cluster_reach(residual, labels, size, tails[1])
    studentised = _studentised(residual, bottom, negligible, resamples, seed)
    low, high = ratio - reach, ratio + reach
    finite = studentised[np.isfinite(studentised)]
    if len(finite):
        lower, upper = np.quantile(finite, tails)
        if (upper - lower) * error > 2 * reach:
            low, high = ratio - float(upper) * error, ratio - float(lower) * error
    observed, unknown = ratio / error, np.count_nonzero(np.isnan(studentised))
    beyond = unknown + min(np.count_nonzero(studentised >= observed), np.count_nonzero(studentised <= observed))
    p = min(1.0, 2 * (int(beyond) + 1) / (resamples + 1))
    return Delta(ratio, low, high, p, confidence, documents)


def freedom_of(labels: Numbers) -> float:
    """Degrees of freedom of interval (a): Kish's effective number of documents, S^2 / sum(n_i^2), less one."""
    return float(labels.sum()) ** 2 / float(np.sum(labels**2)) - 1


def _cluster_reach(residual: Numbers, labels: Numbers, size: float, upper_tail: float) -> float:
    """Half the width of interval (a): leverage h_i = n_i / S, `se = sqrt(sum (r_i / (1 - h_i))^2) / size`, times the
    t quantile."""
    total = float(labels.sum())
    error = math.sqrt(float(np.sum((residual / (1 - labels / total)) ** 2))) / size
    # One document that is almost everything leaves almost no freedom, where the quantile has no finite value.
    quantile = float(stdtrit(freedom_of(labels), upper_tail))
    return error * quantile if math.isfinite(quantile) else math.inf


def _studentised(residual: Numbers, bottom: Numbers, negligible: float, resamples: int, seed: int) -> Numbers:
    """t* = (delta* - delta) / se* of each bootstrap resample, se* the plain cluster error of the resample.

    Indices are those of `Generator(PCG64(seed)).integers(0, n, (resamples, n))`, drawn a few resamples at a time: the
    stream is the same. delta* - delta is sum(r*) / sum(n*), se* the root of the resample's own squared residuals
    r* - (delta* - delta) n* over sum(n*): so sum(n*) cancels but for its sign.

    A resample without spread (the same document again and again, or only documents that changed alike) has no finite
    t*: x / 0 is an infinity of x's sign, 0 / 0 is nan. The quantiles leave both out (interval (a) stands beside, so
    that the result is never narrower than that); p counts an infinity on its side and a nan on both. Among 30 or more
    documents that differ such a resample practically never occurs.
    """
    documents = len(residual)
    draw = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, CHUNK_DRAWS // documents)
    offset, spread = np.empty(resamples), np.empty(resamples)
    for start in range(0, resamples, at_once):
        chunk = slice(start, min(start + at_once, resamples))
        drawn = draw.integers(0, documents, (chunk.stop - chunk.start, documents))
        residuals, bottoms = residual.take(drawn), bottom.take(drawn)
        total, size = residuals.sum(axis=1), bottoms.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            bottoms *= (total / size)[:, None]
            residuals -= bottoms
        offset[chunk] = total * np.sign(size)
        spread[chunk] = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
    offset[np.abs(offset) <= negligible * documents] = 0.0
    spread[spread <= negligible * math.sqrt(documents)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised: Numbers = offset / spread
    return studentised

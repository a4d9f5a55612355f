"""Decides what changed item by item between two models, also where their averages agree. Never runs a model.

A negative flip is an item that the base had right and the candidate has wrong; a positive flip is the reverse
(MUSCLE, 2407.09435, section 3; read in the primary text). So

    candidate accuracy - base accuracy = PFR - NFR      exactly, whatever the intervals say

and a candidate of equal accuracy may still break a tenth of what worked. An item is a benchmark item or, for next-token
top-1, a label; labels of one document rise and fall together, so there the documents are the clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv

from rewarm_trainer.statistics import CONFIDENCE, MINIMUM_DOCUMENTS, Delta, Verdict, paired_delta

TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)

Counts = NDArray[np.int64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ItemFlips:
    """Two models on the same items, each right or wrong on each.

    Shares are of all items, with exact intervals; `net` = candidate minus base accuracy (above zero is better) with its
    paired interval; `mcnemar` is the exact two-sided p of "as many flips either way". `negative_any` also counts wrong
    answers that changed (None where answers are not known).
    """

    items: int
    base_right: int
    candidate_right: int
    negative: Delta
    positive: Delta
    net: Delta
    mcnemar: float
    relative: float | None
    negative_any: Delta | None

    @property
    def verdict(self) -> Verdict | None:
        """Win when the whole interval of `net` is above zero, Lose when below, else Tie; None below 30 items."""
        if self.items < MINIMUM_DOCUMENTS or math.isnan(self.net.low) or math.isnan(self.net.high):
            return None
        if self.net.low > 0:
            return "Win"
        return "Lose" if self.net.high < 0 else "Tie"

    def to_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "negative": share_json(self.negative),
            "positive": share_json(self.positive),
            "negative_any": None if self.negative_any is None else share_json(self.negative_any),
            "relative_negative": self.relative,
            "mcnemar_p": self.mcnemar if math.isfinite(self.mcnemar) else None,
        }


def share_json(share: Delta) -> dict[str, float | None]:
    """A share and its interval; what is not finite is null."""
    value = share.to_json()
    return {name: value[name] for name in ("mean", "low", "high", "confidence")}


def item_flips(
    base: ArrayLike, candidate: ArrayLike, *, base_answers: ArrayLike | None = None, answers: ArrayLike | None = None
) -> ItemFlips:
    """Flips over items in the same order: `base` and `candidate` say who was right (ValueError on unlike lengths).

    NFR = mean [base right and candidate wrong]; NFR_mc = mean [candidate wrong and another answer than the base's]
    (2407.09435, equations 1 and 2), so that NFR <= NFR_mc.
    """
    old, new = _marks(base), _marks(candidate)
    if old.shape != new.shape:
        raise ValueError(f"one mark for each item expected, found {len(old)} and {len(new)}")
    items, lost, won = len(old), int((old & ~new).sum()), int((~old & new).sum())
    any_flip = None
    if base_answers is not None and answers is not None:
        changed = np.asarray(base_answers) != np.asarray(answers)
        any_flip = exact_share(int((~new & changed).sum()), items)
    return ItemFlips(
        items=items,
        base_right=int(old.sum()),
        candidate_right=int(new.sum()),
        negative=exact_share(lost, items),
        positive=exact_share(won, items),
        net=paired_accuracy(old, new),
        mcnemar=mcnemar_exact(lost, won),
        relative=relative_nfr(lost, int(old.sum()), int(new.sum()), items),
        negative_any=any_flip,
    )


def _marks(values: ArrayLike) -> Marks:
    found = np.asarray(values)
    if found.ndim != 1:
        raise ValueError(f"one mark for each item expected, found shape {found.shape}")
    return found.astype(bool)


def exact_share(count: int, items: int) -> Delta:
    """`count` of `items` with the exact interval of Clopper and Pearson (1934): honest also at 0 and at 1."""
    if not items:
        return Delta(math.nan, math.nan, math.nan, math.nan)
    low = float(betaincinv(count, items - count + 1, TAILS[0])) if count else 0.0
    high = float(betaincinv(count + 1, items - count, TAILS[1])) if count < items else 1.0
    return Delta(count / items, low, high, math.nan, documents=items)


def mcnemar_exact(negative: int, positive: int) -> float:
    """Two-sided exact p of McNemar (1947): flips either way are equally likely, P = Binomial(negative + positive, 1/2).

    Without any flip 1.
    """
    flips = negative + positive
    return min(1.0, 2.0 * float(bdtr(min(negative, positive), flips, 0.5))) if flips else 1.0


def paired_accuracy(base: ArrayLike, candidate: ArrayLike) -> Delta:
    """Candidate minus base accuracy, paired by item; above zero is better. Equal answers give [0, 0].

    The hull of the interval of `statistics.paired_delta` (items as documents of one label) and of the exact one given
    the number of flips (Clopper and Pearson on the share of positive flips): the first alone is too narrow when few
    items flip, and the second excludes zero exactly when McNemar's exact test rejects.
    """
    old, new = _marks(base), _marks(candidate)
    lost, won = int((old & ~new).sum()), int((~old & new).sum())
    net = paired_delta(new.astype(float) - old.astype(float), np.ones(len(old)))
    flips = lost + won
    if not flips or math.isnan(net.low):
        return net
    given = exact_share(won, flips)
    low, high = ((2 * bound - 1) * flips / len(old) for bound in (given.low, given.high))
    p = mcnemar_exact(lost, won)
    return Delta(net.mean, min(net.low, low), max(net.high, high), p, CONFIDENCE, len(old))


def relative_nfr(lost: int, base_right: int, candidate_right: int, items: int) -> float | None:
    """Relative NFR: the negative flips seen over those that two independent models of these accuracies would show,
    `NFR / (base accuracy x candidate error)` (positive-congruent training, 2011.09161).

    [R]: recalled, not checked against the paper. Below 1 the models err on the same items. None where none can flip.
    """
    expected = base_right * (items - candidate_right)
    return lost * items / expected if expected else None


@dataclass(frozen=True, slots=True)
class SmoothFlips:
    """Section 15's smooth version over any score per item, D = candidate's score minus the base's.

    `positive` = share of D > 0, `gain` = their mean; `negative` = share of D < 0, `regression` = mean of their |D|
    (None without such items), so that mean D = positive x gain - negative x regression. Shares of no item are None.
    """

    items: int
    positive: float | None
    negative: float | None
    gain: float | None
    regression: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.items,
            "better": {"share": self.positive, "mean": self.gain},
            "worse": {"share": self.negative, "mean": self.regression},
        }


def smooth_flips(differences: ArrayLike, threshold: float = 0.0) -> SmoothFlips:
    """Smooth flips of the scores' `differences`; an item counts once |D| is beyond `threshold` (0: any change).

    For documents D = -(change of their loss): the negative share is that of documents whose loss rises.
    """
    found = np.asarray(differences, dtype=np.float64)
    up, down = found[found > threshold], -found[found < -threshold]
    items = len(found)
    return SmoothFlips(
        items,
        len(up) / items if items else None,
        len(down) / items if items else None,
        float(up.mean()) if len(up) else None,
        float(down.mean()) if len(down) else None,
    )


@dataclass(frozen=True, slots=True)
class TokenFlips:
    """Next-token top-1 over the labels of a set's documents: counts of labels, and shares with document intervals."""

    labels: int
    base_right: int
    candidate_right: int
    negative: Delta
    positive: Delta
    net: Delta
    relative: float | None

    def to_json(self) -> dict[str, Any]:
        """As `report.json` has it: `top1` is the share of labels that a model has right."""
        right = {"baseline": self.base_right, "final": self.candidate_right}
        return {
            "labels": self.labels,
            "top1": {name: count / self.labels if self.labels else None for name, count in right.items()},
            "negative": share_json(self.negative),
            "positive": share_json(self.positive),
            "net": share_json(self.net),
            "relative_negative": self.relative,
        }


def token_flips(base: ArrayLike, candidate: ArrayLike, labels: ArrayLike) -> TokenFlips:
    """Flips of top-1 over labels. `base`, `candidate`: a mark for each label, document after document; `labels`: how
    many each document has. Intervals draw documents (`statistics.paired_delta`), not labels."""
    old, new, sizes = _marks(base), _marks(candidate), np.asarray(labels, dtype=np.int64)
    if old.shape != new.shape or len(old) != int(sizes.sum()):
        raise ValueError(f"{int(sizes.sum())} labels expected, found marks for {len(old)} and {len(new)}")
    lost, won = per_document(old & ~new, sizes), per_document(~old & new, sizes)
    return TokenFlips(
        labels=len(old),
        base_right=int(old.sum()),
        candidate_right=int(new.sum()),
        negative=paired_delta(lost, sizes),
        positive=paired_delta(won, sizes),
        net=paired_delta(won - lost, sizes),
        relative=relative_nfr(int(lost.sum()), int(old.sum()), int(new.sum()), len(old)),
    )


def per_document(marks: ArrayLike, labels: ArrayLike) -> Counts:
    """How many labels of each document are marked; a document may have none."""
    sums = np.concatenate([[0], np.cumsum(_marks(marks), dtype=np.int64)])
    ends = np.cumsum(np.asarray(labels, dtype=np.int64))
    counts: Counts = np.diff(sums[np.concatenate([[0], ends])])
    return counts

"""Decides how small a change an evaluation set can resolve, before anything is trained. Reads no file.

    reach = t(0.975, n_eff - 1) x spread / sqrt(n_eff)      half the expected width of the 95 % interval
    detectable = reach + z(0.8) x spread / sqrt(n_eff)      a true change that gives a verdict in 8 of 10 runs

n_eff = S^2 / sum n_i^2 over the documents' tokens: long documents among short ones count for less. The spread is that
of the documents' changes, nats per token: the root of their mean squared difference from the set's own change, weighted
as the interval weighs them. It is small where a set barely moves and large where a domain is learned or lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from rewarm_trainer.statistics import CONFIDENCE, MINIMUM_DOCUMENTS

POWER = 0.8
ASSUMED_SPREAD = 0.1
"""Nats per token, where nothing was measured. Seen in the quickstart's runs at 67 documents: 0.03 to 0.08 where a set
moved by less than 0.3, 0.2 to 0.5 where it moved by one to four."""


@dataclass(frozen=True)
class Documents:
    """How many documents a set has, how many they count for (n_eff), and where that is known from."""

    count: int
    effective: float
    known_from: str

    @staticmethod
    def of(tokens: ArrayLike, known_from: str, count: int | None = None) -> Documents:
        """From the tokens (or bytes: only proportions matter) of documents like those of the set."""
        sizes = np.asarray(tokens, dtype=np.float64)
        share = float(sizes.sum()) ** 2 / float(np.sum(sizes**2)) / len(sizes) if sizes.sum() else 0.0
        number = len(sizes) if count is None else count
        return Documents(number, share * number, known_from)


@dataclass(frozen=True)
class Spread:
    """The spread of the documents' changes, nats per token, and where it is known from."""

    value: float
    known_from: str

    @staticmethod
    def measured(differences: ArrayLike, labels: ArrayLike, known_from: str) -> Spread:
        """From summed nats after minus before, and labels, of each document of an earlier pair of models."""
        d, n = np.asarray(differences, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        residual = d - d.sum() / n.sum() * n
        return Spread(math.sqrt(float(np.sum(residual**2)) / float(np.sum(n**2))), known_from)


ASSUMED = Spread(ASSUMED_SPREAD, "assumed: no earlier pair of models was scored on this set")


def resolution(documents: Documents, spread: Spread) -> dict[str, Any]:
    """What a set can resolve, as `rewarm plan` tells it: nats per token; null with fewer than two documents."""
    known = documents.effective > 1
    error = spread.value / math.sqrt(documents.effective) if known else math.nan
    reach = float(stdtrit(documents.effective - 1, (1 + CONFIDENCE) / 2)) * error if known else math.nan
    detectable = reach + float(ndtri(POWER)) * error
    return {
        "documents": documents.count,
        "effective_documents": round(documents.effective, 1),
        "documents_from": documents.known_from,
        "spread": spread.value,
        "spread_from": spread.known_from,
        "reach": reach if math.isfinite(reach) else None,
        "detectable": detectable if math.isfinite(detectable) else None,
        "verdict": documents.count >= MINIMUM_DOCUMENTS,
    }

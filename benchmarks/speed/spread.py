"""Medians and ranges over rounds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What the rounds of one number came to: median, smallest, largest. Of one round all three are that number."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """ValueError for no value at all."""
        if not values:
            raise ValueError("no rounds were measured")
        return Spread(statistics.median(values), min(values), max(values))

    def words(self, digits: int = 2) -> str:
        around = "" if self.low == self.high else f" ({self.low:,.{digits}f} to {self.high:,.{digits}f})"
        return f"{self.median:,.{digits}f}{around}"


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """theirs / mine, round by round: how many times less of it mine took. ValueError for unequal rounds."""
    if len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} rounds beside {len(theirs)}")
    return Spread.of([other / own for own, other in zip(mine, theirs, strict=True)])


def fastest(costs: dict[str, Sequence[float]]) -> str:
    """The name whose median is the smallest."""
    return min(costs, key=lambda name: statistics.median(costs[name]))

"""A finding as sentences that a run can contradict, and the verdict on each from intervals. Pure.

    Above(x)         seen  ---------x--|--->      contradicted  <--|--x------
    Below(x)         the other way round
    Within(a, b)     seen  a |--| b inside        contradicted when wholly outside      else: not seen at this size

A sentence with several comparisons is seen when each of them is, and contradicted when one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rewarm_bench.effects import Estimate


class Verdict(StrEnum):
    SEEN = "seen"
    NOT_SEEN = "not seen at this size"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True)
class Within:
    """The whole interval lies strictly between `low` and `high`; an equivalence test when both are finite."""

    low: float
    high: float

    def judge(self, estimate: Estimate) -> Verdict:
        """An interval that is not known (one seed, no documents) shows nothing."""
        if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
            return Verdict.NOT_SEEN
        if self.low < estimate.low and estimate.high < self.high:
            return Verdict.SEEN
        if estimate.high < self.low or estimate.low > self.high:
            return Verdict.CONTRADICTED
        return Verdict.NOT_SEEN


def Above(limit: float = 0.0) -> Within:
    return Within(limit, math.inf)


def Below(limit: float = 0.0) -> Within:
    return Within(-math.inf, limit)


AFTERWARDS = "(Put like this after the run.) "
"""Begins a sentence that was not written down before its run, or not in these words."""


@dataclass(frozen=True)
class Claim:
    """One sentence of a finding, written down before its run.

    `sentence` names sign, order and size as `test` checks them; `published` is what the paper measured.
    """

    key: str
    sentence: str
    paper: str
    test: Within
    published: str = ""


def verdict(claim: Claim, estimates: Mapping[str, Estimate]) -> Verdict:
    """Of one claim over all its comparisons. ValueError without any: a claim nobody measured has no verdict."""
    if not estimates:
        raise ValueError(f"claim {claim.key}: nothing was measured")
    found = {claim.test.judge(estimate) for estimate in estimates.values()}
    if Verdict.CONTRADICTED in found:
        return Verdict.CONTRADICTED
    return Verdict.SEEN if found == {Verdict.SEEN} else Verdict.NOT_SEEN

"""Verdicts: never claimed beyond the interval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_bench.effects import Estimate
from science.claims import Above, Below, Claim, Verdict, Within, verdict

SEEN, NOT, AGAINST = Verdict.SEEN, Verdict.NOT_SEEN, Verdict.CONTRADICTED
numbers = st.floats(-10, 10)
intervals = st.tuples(numbers, numbers, numbers).map(lambda three: Estimate(*sorted(three)[1:2], *sorted(three)[::2]))


@pytest.mark.parametrize(
    ("test", "low", "high", "expected"),
    [
        (Above(), 0.1, 0.3, SEEN),
        (Above(), -0.1, 0.3, NOT),
        (Above(), 0.0, 0.3, NOT),
        (Above(), -0.3, -0.1, AGAINST),
        (Above(0.5), 0.2, 0.4, AGAINST),
        (Below(0.02), -0.1, 0.01, SEEN),
        (Below(0.02), 0.03, 0.1, AGAINST),
        (Within(-0.05, 0.05), -0.04, 0.04, SEEN),
        (Within(-0.05, 0.05), -0.06, 0.04, NOT),
        (Within(-0.05, 0.05), -0.2, 0.2, NOT),
        (Within(-0.05, 0.05), 0.06, 0.1, AGAINST),
        (Above(), math.nan, math.nan, NOT),
    ],
)
def test_one_interval(test: Within, low: float, high: float, expected: Verdict) -> None:
    assert test.judge(Estimate((low + high) / 2, low, high)) is expected


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0.1, 0.2), (0.3, 0.4)], SEEN),
        ([(0.1, 0.2), (-0.1, 0.4)], NOT),
        ([(0.1, 0.2), (-0.4, -0.1)], AGAINST),
        ([(-0.1, 0.2), (-0.4, -0.1)], AGAINST),
    ],
)
def test_a_sentence_of_several_comparisons(intervals: list[tuple[float, float]], expected: Verdict) -> None:
    claim = Claim("key", "Each is above zero.", "a paper", Above())
    found = {str(n): Estimate((low + high) / 2, low, high) for n, (low, high) in enumerate(intervals)}
    assert verdict(claim, found) is expected


def test_what_nobody_measured_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        verdict(Claim("key", "A sentence.", "a paper", Above()), {})


@given(intervals, numbers, numbers)
def test_seen_holds_for_the_estimate_and_both_bounds(estimate: Estimate, one: float, other: float) -> None:
    test = Within(min(one, other), max(one, other))
    if test.judge(estimate) is SEEN:
        assert all(test.low < each < test.high for each in (estimate.value, estimate.low, estimate.high))


@given(intervals, intervals, numbers)
def test_a_wider_interval_never_claims_more(inner: Estimate, more: Estimate, limit: float) -> None:
    outer = Estimate(inner.value, min(inner.low, more.low), max(inner.high, more.high))
    for test in (Above(limit), Below(limit), Within(limit - 1, limit + 1)):
        if test.judge(outer) is not NOT:
            assert test.judge(inner) is test.judge(outer)

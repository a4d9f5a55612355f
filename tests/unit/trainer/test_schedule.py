"""Golden values of science.md section 2 (recomputed there from the authors' code), and continuity at every border."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.snapshot import Decay, Segment, SegmentKind
from rewarm_trainer.schedule import CURVES, learning_rate, within

PEAK, CONSTANT, FINAL = 3e-4, 1.65e-4, 3e-5
WARMUP = Segment(kind=SegmentKind.WARMUP, start=0, end=10, first=0.0, last=PEAK)


def infinite(decay: Decay, timescale: float = 10.0) -> tuple[Segment, ...]:
    """N = 1000, w = 10, c = 600, k = 250: the example of science.md."""
    return (
        WARMUP,
        Segment(
            kind=SegmentKind.COOLDOWN, start=10, end=610, first=PEAK, last=CONSTANT, decay=decay, timescale=timescale
        ),
        Segment(kind=SegmentKind.CONSTANT, start=610, end=860, first=CONSTANT, last=CONSTANT),
        Segment(kind=SegmentKind.ANNEAL, start=860, end=1000, first=CONSTANT, last=FINAL, decay=Decay.EXPONENTIAL),
    )


def rewarm(decay: Decay = Decay.COSINE) -> tuple[Segment, ...]:
    return (WARMUP, Segment(kind=SegmentKind.DECAY, start=10, end=1000, first=PEAK, last=FINAL, decay=decay))


@pytest.mark.parametrize(
    ("segments", "at", "expected"),
    [
        (infinite(Decay.COSINE), 0, 0.0),
        (infinite(Decay.COSINE), 5, 1.5e-4),
        (infinite(Decay.COSINE), 10, 3e-4),
        (infinite(Decay.COSINE), 160, 2.802297e-4),
        (infinite(Decay.INVERSE_SQRT, 1.0), 160, 2.513395e-4),
        (infinite(Decay.INVERSE_SQRT, 10.0), 160, 2.100351e-4),
        (infinite(Decay.COSINE), 310, 2.325e-4),
        (infinite(Decay.INVERSE_SQRT, 1.0), 310, 2.154198e-4),
        (infinite(Decay.INVERSE_SQRT, 10.0), 310, 1.856295e-4),
        (infinite(Decay.COSINE), 610, 1.65e-4),
        (infinite(Decay.COSINE), 735, 1.65e-4),
        (infinite(Decay.COSINE), 860, 1.65e-4),
        (infinite(Decay.COSINE), 861, 1.630030e-4),
        (infinite(Decay.COSINE), 930, 7.035624e-5),
        (infinite(Decay.COSINE), 1000, 3e-5),
        (rewarm(), 257, 2.606108e-4),
        (rewarm(), 505, 1.65e-4),
        (rewarm(), 752, 6.969217e-5),
        (rewarm(Decay.LINEAR), 505, 1.65e-4),
    ],
)
def test_golden_values(segments: tuple[Segment, ...], at: int, expected: float) -> None:
    assert learning_rate(segments, at) == pytest.approx(expected, rel=5e-7)


@pytest.mark.parametrize(("progress", "factor"), [(0.25, 0.5), (0.5, 0.2929)])
def test_one_minus_sqrt_as_in_the_paper(progress: float, factor: float) -> None:
    decay = Segment(kind=SegmentKind.DECAY, start=0, end=100, first=1.0, last=0.0, decay=Decay.ONE_MINUS_SQRT)
    assert learning_rate((decay,), int(100 * progress)) == pytest.approx(factor, abs=5e-5)


@pytest.mark.parametrize("decay", list(Decay))
def test_continuous_at_every_border_and_exact_at_both_ends(decay: Decay) -> None:
    for segments in (infinite(decay), rewarm(decay)):
        for earlier, later in pairwise(segments):
            assert abs(within(earlier, earlier.end) - within(later, later.start)) < 1e-12
        assert learning_rate(segments, 10) == PEAK
        assert learning_rate(segments, 1000) == FINAL


@pytest.mark.parametrize("decay", list(Decay))
def test_a_curve_starts_at_first_and_ends_at_last(decay: Decay) -> None:
    """The formulas themselves, without the shortcut at a segment's ends."""
    curve = CURVES[decay]
    assert curve(PEAK, FINAL, 0.0, 10.0) == pytest.approx(PEAK, abs=1e-18)
    assert curve(PEAK, FINAL, 1.0, 10.0) == pytest.approx(FINAL, abs=1e-18)


@given(
    decay=st.sampled_from(list(Decay)),
    ends=st.tuples(st.floats(1e-8, 1.0), st.floats(1e-8, 1.0)),
    timescale=st.floats(1e-3, 1e3),
    marks=st.lists(st.integers(0, 2 * 10**12), min_size=2, max_size=20),
)
def test_a_decay_never_rises_and_stays_between_its_ends(
    decay: Decay, ends: tuple[float, float], timescale: float, marks: list[int]
) -> None:
    first, last = max(ends), min(ends)
    segment = Segment(
        kind=SegmentKind.DECAY, start=0, end=2 * 10**12, first=first, last=last, decay=decay, timescale=timescale
    )
    rates = [learning_rate((segment,), mark) for mark in sorted(marks)]
    slack = 1e-12 * first
    assert all(later <= earlier + slack for earlier, later in pairwise(rates))
    assert all(last - slack <= rate <= first + slack for rate in rates)


def test_a_border_belongs_to_the_earlier_segment() -> None:
    steps = (
        Segment(kind=SegmentKind.CONSTANT, start=0, end=10, first=2.0, last=2.0),
        Segment(kind=SegmentKind.CONSTANT, start=10, end=20, first=1.0, last=1.0),
    )
    assert [learning_rate(steps, at) for at in (0, 9, 10, 11, 20)] == [2.0, 2.0, 2.0, 1.0, 1.0]


def test_no_warmup_gives_the_peak_at_zero() -> None:
    empty = Segment(kind=SegmentKind.WARMUP, start=0, end=0, first=0.0, last=PEAK)
    decay = Segment(kind=SegmentKind.DECAY, start=0, end=1000, first=PEAK, last=FINAL, decay=Decay.COSINE)
    assert learning_rate((empty, decay), 0) == PEAK
    assert learning_rate((decay,), 0) == PEAK


def test_limits_of_the_inverse_sqrt_cooldown() -> None:
    """A timescale near 0 is the linear cooldown (science.md section 2)."""
    flat = infinite(Decay.INVERSE_SQRT, 1e-9)
    assert learning_rate(flat, 310) == pytest.approx((PEAK + CONSTANT) / 2, rel=1e-8)


def test_an_infinite_schedule_without_constant_and_anneal_is_the_plain_cosine() -> None:
    cooldown = Segment(kind=SegmentKind.COOLDOWN, start=10, end=1000, first=PEAK, last=FINAL, decay=Decay.COSINE)
    for at in (0, 7, 10, 257, 505, 752, 1000):
        assert learning_rate((WARMUP, cooldown), at) == learning_rate(rewarm(), at)


def test_a_decay_to_zero_is_zero_at_the_end_and_finite_before() -> None:
    decay = Segment(kind=SegmentKind.DECAY, start=0, end=7, first=PEAK, last=0.0, decay=Decay.COSINE)
    rates = [learning_rate((decay,), at) for at in range(8)]
    assert rates[-1] == 0.0
    assert all(math.isfinite(rate) and rate > 0 for rate in rates[:-1])


@pytest.mark.parametrize("at", [-1, 1001])
def test_outside_the_schedule_is_an_error_that_names_both_numbers(at: int) -> None:
    with pytest.raises(ValueError, match=rf"tokens {at} .*(1000|\[0, 10\])"):
        learning_rate(rewarm(), at)

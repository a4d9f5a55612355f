"""Intervals over seeds and documents: their limits and laws. Coverage: tests/unit/benchmarks/test_calibration.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewarm_trainer.statistics import paired_delta, share_removed, verdict
from rewarm_trainer.statistics_seeds import hierarchical_interval, hierarchical_share_removed

RESAMPLES = 400


def recipe(
    draw: np.random.Generator,
    *,
    seeds: int,
    documents: int,
    seed_spread: float,
    spread: float = 0.1,
    cell: float = 0.05,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Differences whose expectation is zero: an effect of the seed, of the document, and of the two together."""
    labels = np.round(np.exp(draw.normal(5, 1, documents))) + 1
    of_document = draw.normal(0, spread, documents)
    rows = [
        (draw.normal(0, seed_spread) + of_document + draw.normal(0, spread / 2, documents)) * labels
        for _ in range(seeds)
    ]
    return rows, [labels] * seeds


def test_seeds_that_agree_leave_the_document_interval() -> None:
    draw = np.random.default_rng(0)
    (one,), (labels,) = recipe(draw, seeds=1, documents=80, seed_spread=0.0)
    alone, thrice = paired_delta(one, labels), hierarchical_interval([one] * 3, [labels] * 3)
    assert [thrice.mean, thrice.low, thrice.high] == pytest.approx([alone.mean, alone.low, alone.high], rel=1e-9)
    assert (thrice.documents, verdict(thrice)) == (80, verdict(alone))


def test_documents_that_agree_leave_the_t_interval_over_seeds() -> None:
    labels = np.full(50, 100.0)
    deltas = [0.10, 0.14, 0.18]
    found = hierarchical_interval([delta * labels for delta in deltas], [labels] * 3)
    expected = stats.t.interval(0.95, 2, np.mean(deltas), stats.sem(deltas))
    assert [found.mean, found.low, found.high] == pytest.approx([0.14, *expected])
    assert found.p == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)


def test_other_documents_for_each_seed_are_the_t_interval_over_seeds() -> None:
    labels = [np.full(count, 100.0) for count in (40, 50, 60)]
    deltas = [0.10, 0.14, 0.18]
    found = hierarchical_interval([delta * n for delta, n in zip(deltas, labels, strict=True)], labels)
    assert [found.low, found.high] == pytest.approx(stats.t.interval(0.95, 2, np.mean(deltas), stats.sem(deltas)))
    assert found.documents == 150


def test_one_seed_says_nothing_about_another() -> None:
    found = hierarchical_interval([np.full(40, 3.0)], [np.full(40, 10.0)])
    assert found.mean == pytest.approx(0.3)
    assert math.isnan(found.low)
    assert verdict(found) is None


def test_equal_recipes_give_zero_to_zero() -> None:
    found = hierarchical_interval([np.zeros(40)] * 3, [np.full(40, 10.0)] * 3)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "labels"),
    [([], []), ([np.zeros(3)], [np.zeros(4)]), ([np.zeros(3)], [np.array([1.0, 2.0, -1.0])]), ([np.zeros(3)], [])],
)
def test_what_does_not_fit_is_refused(rows: list[np.ndarray], labels: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"one number for each document of each seed|labels below zero"):
        hierarchical_interval(rows, labels)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), seeds=st.integers(2, 6), documents=st.integers(3, 50), spread=st.floats(0, 0.3))
def test_laws(seed: int, seeds: int, documents: int, spread: float) -> None:
    """Order of seeds and sign of the difference do not matter; p and interval agree; never below the documents' own."""
    rows, labels = recipe(np.random.default_rng(seed), seeds=seeds, documents=documents, seed_spread=spread)
    there = hierarchical_interval(rows, labels, resamples=RESAMPLES)
    turned = hierarchical_interval(rows[::-1], labels, resamples=RESAMPLES)
    back = hierarchical_interval([-row for row in rows], labels, resamples=RESAMPLES)
    assert [turned.low, turned.high] == pytest.approx([there.low, there.high], rel=1e-6, abs=1e-12)
    assert back.mean == pytest.approx(-there.mean, abs=1e-15)
    assert 0 <= there.p <= 1
    assert (there.p < 0.05) == (not there.low <= 0 <= there.high)
    alone = paired_delta(np.mean(rows, axis=0), labels[0], resamples=RESAMPLES)
    assert there.high - there.low >= (alone.high - alone.low) * (1 - 1e-9)


def test_share_removed_over_seeds() -> None:
    draw = np.random.default_rng(2)
    labels = np.round(np.exp(draw.normal(5, 1, 90))) + 1
    plain = [(1.0 + 0.1 * draw.normal(size=90) + 0.05 * draw.normal()) * labels for _ in range(3)]
    mixed = [0.25 * row + 0.02 * draw.normal(size=90) * labels for row in plain]
    found = hierarchical_share_removed(plain, mixed, [labels] * 3)
    assert found.low < 0.75 < found.high
    assert found.high - found.low < 0.1
    one = share_removed(plain[0], mixed[0], labels)
    same = hierarchical_share_removed([plain[0]] * 2, [mixed[0]] * 2, [labels] * 2)
    assert [same.mean, same.low, same.high] == pytest.approx([one.mean, one.low, one.high], rel=1e-9)
    nothing = hierarchical_share_removed([row - labels for row in plain], mixed, [labels] * 3)
    assert math.isnan(nothing.mean)

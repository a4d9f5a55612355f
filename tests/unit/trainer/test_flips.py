"""Flips: the identities of science.md section 15, exact intervals, and coverage where a law can be simulated."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.flips import (
    exact_share,
    item_flips,
    mcnemar_exact,
    paired_accuracy,
    per_document,
    relative_nfr,
    smooth_flips,
    token_flips,
)

MARKS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    base = np.array([1] * (both + lost) + [0] * (won + neither), dtype=bool)
    candidate = np.array([1] * both + [0] * lost + [1] * won + [0] * neither, dtype=bool)
    return base, candidate


def test_piqa_of_the_paper_gains_accuracy_and_still_breaks_a_tenth() -> None:
    """2407.09435, Llama 1 to 2 on PIQA: accuracy 72.74 to 72.91, NFR 10.27 %; so PFR is 10.44 %."""
    found = item_flips(*pairs(both=7274 - 1027, lost=1027, won=1044, neither=10000 - 7274 - 1044))
    assert (found.base_right, found.candidate_right) == (7274, 7291)
    assert found.negative.mean == 0.1027
    assert found.positive.mean == 0.1044
    assert found.net.mean == pytest.approx(0.0017, abs=1e-12)
    assert found.verdict == "Tie"
    assert found.negative.low < 0.1027 < found.negative.high


@given(MARKS)
def test_accuracies_differ_by_positive_minus_negative_flips(marks: list[tuple[bool, bool]]) -> None:
    base, candidate = (np.array(side) for side in zip(*marks, strict=True))
    found = item_flips(base, candidate)
    n = len(base)
    assert found.candidate_right - found.base_right == round((found.positive.mean - found.negative.mean) * n)
    assert found.net.mean == pytest.approx((found.candidate_right - found.base_right) / n)
    swapped = item_flips(candidate, base)
    assert (swapped.negative, swapped.positive) == (found.positive, found.negative)
    assert swapped.mcnemar == found.mcnemar


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_a_model_against_itself_flips_nothing(marks: list[bool]) -> None:
    found = item_flips(marks, marks, base_answers=marks, answers=marks)
    assert (found.negative.mean, found.positive.mean, found.negative_any.mean) == (0, 0, 0)
    assert (found.net.mean, found.net.low, found.net.high, found.mcnemar) == (0, 0, 0, 1)
    # No flip among n items is no proof that there is none: the exact upper bound says how many are possible.
    assert found.negative.high == pytest.approx(1 - 0.025 ** (1 / len(marks)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_changed_wrong_answers_count_only_in_negative_any(answers: list[tuple[int, int, int]]) -> None:
    gold, old, new = (np.array(side) for side in zip(*answers, strict=True))
    found = item_flips(old == gold, new == gold, base_answers=old, answers=new)
    assert found.negative.mean <= found.negative_any.mean
    assert found.negative_any.mean == np.mean((new != gold) & (old != new))


def test_mcnemar_is_the_sum_over_all_coins() -> None:
    for negative, positive in product(range(6), repeat=2):
        n = negative + positive
        tail = sum(math.comb(n, k) for k in range(min(negative, positive) + 1)) / 2**n
        assert mcnemar_exact(negative, positive) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_exact(0, 6) == pytest.approx(0.03125)


@given(st.integers(1, 40), st.integers(0, 15), st.integers(0, 15))
@settings(max_examples=40, deadline=None)
def test_the_interval_clears_zero_only_where_mcnemar_rejects(rest: int, lost: int, won: int) -> None:
    net = paired_accuracy(*pairs(both=rest, lost=lost, won=won, neither=rest))
    if net.low > 0 or net.high < 0:
        assert mcnemar_exact(lost, won) < 0.05


@pytest.mark.parametrize(("count", "items"), [(0, 30), (1, 30), (15, 30), (30, 30), (3, 200)])
def test_an_exact_share_has_its_tails_where_the_binomial_says(count: int, items: int) -> None:
    def beyond(share: float, first: int, last: int) -> float:
        return sum(math.comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(first, last + 1))

    share = exact_share(count, items)
    assert share.low == 0 if count == 0 else beyond(share.low, count, items) == pytest.approx(0.025)
    assert share.high == 1 if count == items else beyond(share.high, 0, count) == pytest.approx(0.025)


def test_the_paired_interval_covers_a_difference_that_is_there() -> None:
    random = np.random.default_rng(5)
    chances, items, covered = [0.6, 0.05, 0.1, 0.25], 100, 0
    for _ in range(300):
        covered_by = paired_accuracy(*pairs(*random.multinomial(items, chances)))
        covered += covered_by.low <= 0.05 <= covered_by.high
    assert covered / 300 >= 0.93


def test_relative_nfr_is_one_for_models_that_err_independently() -> None:
    assert relative_nfr(lost=24, base_right=60, candidate_right=60, items=100) == 1
    assert relative_nfr(lost=0, base_right=100, candidate_right=100, items=100) is None


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_smooth_flips_add_up_to_the_mean_difference(differences: list[float]) -> None:
    found = smooth_flips(differences)
    total = (found.positive or 0) * (found.gain or 0) - (found.negative or 0) * (found.regression or 0)
    assert total == pytest.approx(np.mean(differences), abs=1e-9)
    assert smooth_flips(differences, threshold=10).to_json() == {
        "count": len(differences), "better": {"share": 0, "mean": None}, "worse": {"share": 0, "mean": None}
    }  # fmt: skip


def test_token_flips_are_counted_by_label_and_judged_by_document() -> None:
    base = [1, 1, 0, 0, 1, 0]
    candidate = [1, 0, 1, 0, 0, 1]
    found = token_flips(base, candidate, [3, 0, 2, 1])
    assert (found.labels, found.base_right, found.candidate_right) == (6, 3, 3)
    assert (found.negative.mean, found.positive.mean, found.net.mean) == (2 / 6, 2 / 6, 0)
    assert per_document(base, [3, 0, 2, 1]).tolist() == [2, 0, 1, 0]
    assert found.to_json()["top1"] == {"baseline": 0.5, "final": 0.5}
    with pytest.raises(ValueError, match="7 labels expected"):
        token_flips(base, candidate, [3, 4])


def test_labels_that_flip_together_make_wide_intervals() -> None:
    """Ten documents of 100 labels whose labels flip all or not at all are ten draws, not a thousand."""
    labels = [100] * 40
    base = np.ones(4000)
    whole = np.repeat(np.arange(40) % 4 != 0, 100)
    spread = np.tile(np.arange(100) % 4 != 0, 40)
    together, apart = token_flips(base, whole, labels), token_flips(base, spread, labels)
    assert together.negative.mean == apart.negative.mean == 0.25
    assert together.negative.high - together.negative.low > 0.2
    assert apart.negative.high - apart.negative.low < 0.01

"""Greedy soup and the dial of forgetting: chosen by a split that does not judge."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.weights.choice import dial, greedy_soup, selection


def test_greedy_soup_by_hand() -> None:
    """Wortsman et al. 2022, Recipe 1: best first, and only what makes the soup strictly better stays."""
    table = {(0,): 3.0, (1,): 1.0, (2,): 2.0, (3,): 4.0, (1, 2): 0.8, (1, 2, 0): 0.8, (1, 2, 3): 0.5}
    found = greedy_soup(4, lambda kept: table[kept])
    assert found.kept == (1, 2, 3)
    assert found.alone == (3.0, 1.0, 2.0, 4.0)
    assert found.trials == ((2, 0.8, True), (0, 0.8, False), (3, 0.5, True))
    assert found.metric == 0.5


def test_a_soup_of_equal_models_is_the_first() -> None:
    assert greedy_soup(3, lambda kept: 1.0).kept == (0,)


def test_a_model_that_is_not_finite_comes_last() -> None:
    table = {(0,): float("nan"), (1,): 2.0, (1, 0): float("nan")}
    assert greedy_soup(2, lambda kept: table[kept]).kept == (1,)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-1, 1))
def test_a_greedy_soup_is_never_worse_than_its_best_ingredient(points, optimum) -> None:
    """On a convex loss of the mean: the distance of a point to an optimum."""
    found = greedy_soup(len(points), lambda kept: abs(float(np.mean([points[index] for index in kept])) - optimum))
    assert found.metric <= min(found.alone)
    assert found.metric == pytest.approx(abs(np.mean([points[index] for index in found.kept]) - optimum))


def test_the_split_is_a_third_by_hash_whatever_the_order() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(64)]
    mask = selection(hashes)
    assert mask.sum() == 21
    backwards = selection(hashes[::-1])
    assert (backwards[::-1] == mask).all()
    assert not mask[:21].all(), "not simply the first documents"
    assert selection(hashes[:2]).sum() == 0


def valley(lowest: float):
    """Loss over the dial with its lowest point at `lowest`; forgetting falls towards the base."""
    return lambda a: ((a - lowest) ** 2 - 0.3, 0.5 * (1 - a) ** 2)


def test_the_dial_finds_the_lowest_loss() -> None:
    chosen, trials = dial(valley(0.34), None)
    assert chosen == 0.35
    assert [trial.towards_base for trial in trials] == [0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


def test_the_dial_keeps_within_the_gate() -> None:
    chosen, trials = dial(valley(0.0), 0.1)
    assert chosen == 0.6
    by_coefficient = {trial.towards_base: trial for trial in trials}
    assert by_coefficient[chosen].forgetting <= 0.1 < by_coefficient[0.55].forgetting


def test_the_dial_may_end_at_either_end() -> None:
    assert dial(lambda a: (a, None), 0.02)[0] == 0.0
    assert dial(lambda a: (-a, 0.0), None)[0] == 1.0


@settings(deadline=None)
@given(st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1)))
def test_the_chosen_trial_is_the_best_that_is_allowed(lowest, limit) -> None:
    chosen, trials = dial(valley(lowest), limit)
    allowed = [trial for trial in trials if limit is None or trial.forgetting <= limit]
    assert min(trial.loss for trial in allowed) == next(t.loss for t in trials if t.towards_base == chosen)

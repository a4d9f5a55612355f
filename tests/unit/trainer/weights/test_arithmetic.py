"""Identities of weight arithmetic, to the bit where they hold to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewarm_trainer.weights import arithmetic

KINDS = st.sampled_from(["SMA", "EMA", "GeometricEMA"])
ALPHA = st.floats(0.01, 1.0)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
WEIGHTS = arrays(np.float32, 7, elements=FLOATS)


def bits(array: np.ndarray) -> bytes:
    assert array.dtype == np.float32
    return array.tobytes()


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 12), KINDS, ALPHA)
def test_the_average_of_one_model_is_that_model_to_the_bit(weights, count, kind, alpha) -> None:
    coefficients = arithmetic.averaging(kind, count, alpha)
    assert bits(arithmetic.combine([weights] * count, coefficients)) == bits(weights)


@settings(deadline=None)
@given(st.integers(1, 40), KINDS, ALPHA)
def test_coefficients_add_up_to_one_and_none_is_negative(count, kind, alpha) -> None:
    coefficients = arithmetic.averaging(kind, count, alpha)
    assert len(coefficients) == count
    assert sum(coefficients) == pytest.approx(1.0, abs=1e-12)
    assert min(coefficients) >= 0


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=2, max_size=6), st.randoms())
def test_a_mean_knows_no_order_and_stays_between_its_models(models, random) -> None:
    shuffled = random.sample(models, len(models))
    coefficients = arithmetic.uniform(len(models))
    mean, again = (arithmetic.combine(order, coefficients) for order in (models, shuffled))
    stack = np.stack(models)
    # The smallest number that float32 has is no share of anything.
    scale = np.abs(stack).max(0) + 1e-37
    assert np.all(np.abs(mean - again) <= 1e-7 * scale)
    assert np.all(mean >= stack.min(0) - 1e-7 * scale)
    assert np.all(mean <= stack.max(0) + 1e-7 * scale)
    np.testing.assert_allclose(mean, stack.astype(np.float64).mean(0), rtol=1e-6, atol=1e-7 * scale.max())


def test_the_two_averages_that_share_a_name() -> None:
    """science.md, section 11: alpha 0.2 over the last six checkpoints."""
    recursive = arithmetic.averaging("EMA", 6, 0.2)
    assert recursive[-1] == pytest.approx(0.20)
    assert recursive[0] == pytest.approx(0.33, abs=0.005)
    average = 3.0
    for value in (5.0, 7.0, 11.0, 13.0, 17.0):
        average = 0.2 * value + 0.8 * average
    assert sum(w * v for w, v in zip(recursive, (3, 5, 7, 11, 13, 17), strict=True)) == pytest.approx(average)
    geometric = arithmetic.averaging("GeometricEMA", 6, 0.2)
    assert geometric[::-1][:3] == pytest.approx([0.8001, 0.16, 0.032], abs=5e-5)
    assert arithmetic.averaging("EMA", 3, 1.0) == [0.0, 0.0, 1.0]


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS)
def test_the_ends_of_an_interpolation_are_its_models(trained, base) -> None:
    assert bits(arithmetic.interpolate(trained, base, 0.0)) == bits(trained)
    assert bits(arithmetic.interpolate(trained, base, 1.0)) == bits(base)
    assert bits(arithmetic.interpolate(trained, trained, 0.3)) == bits(trained)


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS, st.floats(0, 1))
def test_interpolation_both_ways_meets(trained, base, coefficient) -> None:
    there = arithmetic.interpolate(trained, base, coefficient)
    back = arithmetic.interpolate(base, trained, 1.0 - coefficient)
    np.testing.assert_allclose(there, back, rtol=1e-6, atol=1e-7 * float(np.abs([trained, base]).max()))


def test_what_weighs_nothing_is_not_looked_at() -> None:
    broken = np.array([np.nan, np.inf], dtype=np.float32)
    whole = np.array([1.0, 2.0], dtype=np.float32)
    assert bits(arithmetic.interpolate(whole, broken, 0.0)) == bits(whole)


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS)
def test_no_new_text_gives_the_instruct_model_to_the_bit(base, instruct) -> None:
    """Signs of zero and tiny numbers beside large ones included."""
    assert bits(arithmetic.residual(base, instruct, base)) == bits(instruct)


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS)
def test_no_instruction_tuning_gives_the_trained_model_to_the_bit(base, trained) -> None:
    assert bits(arithmetic.residual(trained, base, base)) == bits(trained)


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS, WEIGHTS)
def test_the_residual_is_its_formula(trained, instruct, base) -> None:
    exact = trained.astype(np.float64) + (instruct.astype(np.float64) - base.astype(np.float64))
    scale = max(float(np.abs(part).max()) for part in (trained, instruct, base))
    np.testing.assert_allclose(arithmetic.residual(trained, instruct, base), exact, rtol=2e-7, atol=1e-7 * scale)


def test_tiny_weights_beside_large_ones_survive() -> None:
    """In plain float32 1 + (1e-10 - 1) is 0."""
    one, tiny = np.array([1.0], np.float32), np.array([1e-10], np.float32)
    assert arithmetic.residual(one, tiny, one)[0] == tiny[0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: arithmetic.uniform(0),
        lambda: arithmetic.averaging("EMA", 3, 0.0),
        lambda: arithmetic.averaging("EMA", 3, 1.5),
        lambda: arithmetic.interpolate(np.zeros(1, np.float32), np.zeros(1, np.float32), 1.1),
        lambda: arithmetic.combine([np.zeros(1, np.float32)], [0.5, 0.5]),
    ],
)
def test_coefficients_outside_their_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        wrong()

"""The D-CPT law: its signs on a grid, its constraints by construction, and predictions of made-up worlds recovered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.laws.dcpt import DcptLaw, Points, _Form, fit_dcpt, predict, refit_dcpt

SHARES = (0.0, 0.1, 0.33, 0.5, 0.67, 0.9, 1.0)
TRUE = DcptLaw(1.6, 0.4, 0.3, 0.05, 1.4, 0.25, 0.25, 0.5, 0.1, 1e9, 1e10)


def world(law: DcptLaw, sizes=(0.5e9, 1.8e9, 4e9), budgets=(5e9, 1e10, 2e10), shares=SHARES, noise=0.0) -> Points:
    n, d, r = (axis.ravel() for axis in np.meshgrid(sizes, budgets, shares))
    points = Points(n, d, r, np.ones_like(n), list(range(len(n))))
    scatter = 1 + noise * np.random.default_rng(1).standard_normal(len(n))
    return replace(points, losses=predict(law, points) * scatter)


@pytest.fixture(scope="module")
def fitted():
    return fit_dcpt(world(TRUE, noise=0.002))


def elsewhere(law: DcptLaw, sizes=(0.8e9, 3e9), budgets=(7e9, 1.5e10)) -> np.ndarray:
    return world(law, sizes, budgets, (0.05, 0.25, 0.8)).losses


def test_predictions_of_a_noisy_world_are_recovered_between_its_points(fitted):
    assert np.abs(elsewhere(fitted) / elsewhere(TRUE) - 1).max() < 0.005


def test_one_size_is_fitted_with_seven_parameters():
    points = world(TRUE, sizes=(1.8e9,), noise=0.001)
    law = fit_dcpt(points)
    assert (points.free, law.a) == (7, 0.0)
    truth = elsewhere(TRUE, sizes=(1.8e9,))
    assert np.abs(elsewhere(law, sizes=(1.8e9,)) / truth - 1).max() < 0.005


def test_an_outlier_does_not_bend_the_law():
    points = world(TRUE)
    losses = points.losses.copy()
    losses[10] *= 1.2
    law = fit_dcpt(replace(points, losses=losses))
    assert np.abs(elsewhere(law) / elsewhere(TRUE) - 1).max() < 0.005


def gradients(law: DcptLaw, n: float, d: float, r: float) -> tuple[float, float, float, float]:
    """dL/dN, dL/dD, dL/dr and d2L/dDdr by central differences."""
    h = 1e-4

    def at(a: float, b: float, c: float) -> float:
        return law(n * a, d * b, r + c)

    cross = at(1, 1 + h, h) - at(1, 1 + h, -h) - at(1, 1 - h, h) + at(1, 1 - h, -h)
    return at(1 + h, 1, 0) - at(1 - h, 1, 0), at(1, 1 + h, 0) - at(1, 1 - h, 0), at(1, 1, h) - at(1, 1, -h), cross


def assert_signs(law: DcptLaw, budgets) -> None:
    assert law.falls_in_share(min(budgets))
    for n in (0.5e9, 4e9):
        for d in budgets:
            assert np.isfinite(law(n, d, 0.0))
            for r in (0.01, 0.2, 0.6, 0.99):
                in_n, in_d, in_r, crossed = gradients(law, n, d, r)
                assert in_n < 0
                assert in_d < 0
                assert in_r < 0
                assert crossed < 1e-12


def test_the_signs_of_the_paper_hold_on_a_grid(fitted):
    assert_signs(fitted, (5e9, 2e10))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_even_nonsense_is_fitted_within_the_constraints(seed):
    points = world(TRUE, sizes=(1e9, 4e9), shares=(0.1, 0.5, 0.9))
    losses = 2 + np.random.default_rng(seed).random(len(points.losses))
    law = fit_dcpt(replace(points, losses=losses))
    assert law.falls_in_share(5e9)
    assert min(law.b, law.c, law.alpha, law.beta, law.gamma, law.epsilon) > 0
    assert law.eta >= 1


def test_at_a_fixed_ratio_it_is_chinchillas_law(fitted):
    share = 0.4
    constant = fitted.e + fitted.c / (share + fitted.epsilon) ** fitted.gamma
    scale = fitted.b * share**fitted.eta * fitted.tokens_unit**fitted.beta
    for n, d in ((0.6e9, 6e9), (3e9, 1.9e10)):
        chinchilla = constant + fitted.a * (fitted.parameters_unit / n) ** fitted.alpha + scale / d**fitted.beta
        assert fitted(n, d, share) == pytest.approx(chinchilla, rel=1e-12)


def test_other_units_are_the_same_law(fitted):
    other = fitted.in_units(1.0, 1e6)
    assert other(2e9, 1e10, 0.3) == pytest.approx(fitted(2e9, 1e10, 0.3), rel=1e-9)


def test_a_refit_of_the_same_losses_is_the_same_law(fitted):
    points = world(TRUE, noise=0.002)
    (again,) = refit_dcpt(fitted, points, points.losses[None])
    assert np.abs(predict(again, points) / predict(fitted, points) - 1).max() < 1e-3


def test_the_slopes_are_those_of_the_residuals(fitted):
    form = _Form(world(TRUE, noise=0.01))
    x = form.packed(TRUE) + 0.01
    for place in range(9):
        step = np.zeros(9)
        step[place] = 1e-6
        expected = (form.residuals(x + step) - form.residuals(x - step)) / 2e-6
        assert form.slopes(x)[:, place] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_too_few_budgets_or_shares_are_refused():
    with pytest.raises(ValueError, match="budgets"):
        fit_dcpt(world(TRUE, budgets=(1e10,)))
    with pytest.raises(ValueError, match="shares"):
        fit_dcpt(world(TRUE, shares=(0.2, 0.8)))

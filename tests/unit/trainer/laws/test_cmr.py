"""The CMR law against the paper's published values (science.md, section 6), and against curves of known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.laws.cmr import (
    PUBLISHED,
    PowerLaw,
    TwoPowers,
    critical_tokens,
    fit_critical_law,
    fit_power_law,
    fit_two_powers,
    refit_power_laws,
)
from rewarm_trainer.laws.critical import WEIGHT, Curve, find_critical

# Table 2: domain loss at R = 1, 3/4, 1/2, 1/3, and what the law says at 1/4.
TABLE_2 = {
    "460M": ([1.4628, 1.4844, 1.5122, 1.5387], 1.5561),
    "940M": ([1.3723, 1.3910, 1.4155, 1.4385], 1.4538),
    "1.6B": ([1.3242, 1.3416, 1.3643, 1.3854], 1.3993),
    "3.1B": ([1.2585, 1.2750, 1.2965, 1.3170], 1.3306),
}
# Critical ratios in percent, at 20B tokens (T = 100, published) and at 50B (T = 250, by the same law).
CRITICAL = {"460M": (29.8, 51.6), "940M": (34.9, 53.8), "1.6B": (41.4, 56.7), "3.1B": (47.8, 59.5)}


@pytest.mark.parametrize("size", TABLE_2)
def test_table_2_is_predicted_from_four_ratios(size):
    losses, expected = TABLE_2[size]
    law = fit_power_law([1, 0.75, 0.5, 1 / 3], losses)
    assert law(0.25) == pytest.approx(expected, abs=0.0001)


@pytest.mark.parametrize("size", CRITICAL)
def test_the_published_law_gives_the_published_critical_ratios(size):
    found = tuple(round(100 * PUBLISHED[size](tokens), 1) for tokens in (100, 250))
    assert found == CRITICAL[size]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 2.0), st.floats(-2.0, 2.0).filter(lambda s: abs(s) > 0.1), st.floats(0.5, 3.0), st.booleans())
def test_a_power_law_is_recovered_from_its_own_points(size, s, beta, rising):
    true = PowerLaw(size if rising else -size, s, beta)
    shares = [1 / 8, 1 / 4, 1 / 3, 1 / 2, 3 / 4, 1]
    found = fit_power_law(shares, [true(share) for share in shares])
    for share in (0.15, 0.4, 0.9):
        assert found(share) == pytest.approx(true(share), abs=1e-5)


def test_a_logarithm_is_a_power_law_at_the_edge():
    shares = [0.1, 0.2, 0.5, 1.0]
    law = fit_power_law(shares, [2 - 0.3 * np.log(share) for share in shares])
    assert law(0.3) == pytest.approx(2 - 0.3 * np.log(0.3), abs=1e-5)


def test_resampled_rows_are_fitted_as_a_lone_row_is():
    shares = [0.125, 0.25, 0.5, 0.75, 1.0]
    rows = np.array([[PowerLaw(a, 0.3, 1.0)(share) for share in shares] for a in (0.2, 0.5, -0.4)])
    for row, law in zip(rows, refit_power_laws(shares, rows), strict=True):
        assert law(0.4) == pytest.approx(fit_power_law(shares, row.tolist())(0.4), abs=1e-4)


def test_too_few_places_are_refused():
    with pytest.raises(ValueError, match="three parameters"):
        fit_power_law([0.5, 1.0, 1.0], [1, 2, 2])
    with pytest.raises(ValueError, match="five parameters"):
        fit_two_powers([1, 2, 3, 4], [1, 2, 3, 4])


def test_the_turn_is_where_the_slope_vanishes_and_lambda_tends_to_it():
    general, new = TwoPowers(0.05, 0.5, -0.004, 0.9, 0.0), PowerLaw(-0.3, 0.3, 0.05)
    turn = general.turn()
    assert general.slope(turn) == pytest.approx(0, abs=1e-12)
    span = (1.0, 1000.0)
    assert critical_tokens(new, general, None, span) == pytest.approx(turn, rel=1e-9)
    places = [critical_tokens(new, general, weight, span) for weight in (100.0, 1000.0, 1e5, 1e8)]
    assert places == sorted(places)
    assert places[-1] == pytest.approx(turn, rel=1e-4)
    for weight, place in zip((100.0, 1000.0), places, strict=False):
        assert new.slope(place) + weight * general.slope(place) == pytest.approx(0, abs=1e-9)


def test_a_loss_that_only_rises_has_no_critical_tokens_and_one_that_falls_has_the_start():
    new = PowerLaw(-0.3, 0.3, 0.0)
    assert critical_tokens(new, TwoPowers(0.05, 0.5, 0.001, 0.9, 0.0), 1000.0, (1, 100)) is None
    assert critical_tokens(new, TwoPowers(-0.05, 0.5, -0.001, 0.9, 0.0), 1000.0, (1, 100)) == 1


def _curve(share: float, noise: float = 0.0) -> Curve:
    """A run of a world in which T0 = 100 (share / 0.45)^2 units of 10,000 tokens, whatever lambda says."""
    tokens = np.linspace(1, 100, 60)
    turn = 100 * (share / 0.45) ** 2
    second = -0.008 * 0.5 * turn**-0.5  # the slope of 0.008 T^0.5 - c T vanishes at the turn
    random = np.random.default_rng(round(1000 * share))
    general = 0.008 * tokens**0.5 + second * tokens + noise * random.standard_normal(len(tokens))
    new = 1e-7 * (-(tokens**0.3)) + noise * 1e-7 * random.standard_normal(len(tokens))
    return Curve(share, (tokens * 1e4).tolist(), new.tolist(), general.tolist())


@pytest.mark.parametrize("noise", [0.0, 5e-6])
def test_the_critical_ratio_of_known_curves_is_recovered_within_one_percent(noise):
    found = find_critical([_curve(share, noise) for share in (0.125, 0.25, 1 / 3, 0.4, 0.5, 0.75)])
    assert found.share == pytest.approx(0.45, rel=0.01)
    for turning in found.turnings:
        expected = 1e6 * (turning.share / 0.45) ** 2
        if expected < 1e6:
            assert turning.critical_tokens == pytest.approx(expected, rel=0.02)
        else:
            assert turning.critical_tokens is None
    assert found.law(100) == pytest.approx(0.45, rel=0.01)


def test_equation_8_is_recovered_from_pairs():
    law = PUBLISHED["1.6B"]
    tokens = [40, 70, 100, 150, 250]
    found = fit_critical_law(tokens, [law(place) for place in tokens])
    assert found(120) == pytest.approx(law(120), abs=1e-6)


def test_short_curves_have_no_critical_ratio():
    assert find_critical([Curve(0.5, [1, 2, 3], [0, 0, 0], [0, 0, 0])]) is None
    assert WEIGHT == 1000

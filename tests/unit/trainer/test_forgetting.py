"""Forgetting, gain and the stability gap."""

from __future__ import annotations

import math

import pytest

from rewarm_api.snapshot import Role
from rewarm_trainer.forgetting import Forgetting, Look, StabilityGap, stability_gap, summary
from rewarm_trainer.statistics import Delta


def delta(mean: float, reach: float = 0.01) -> Delta:
    return Delta(mean, mean - reach, mean + reach, 0.5, documents=100)


def looks(*means: float) -> list[Look]:
    return [Look(100 * number, delta(mean)) for number, mean in enumerate(means)]


def test_a_gap_that_closes() -> None:
    """Recovered at the first look after the peak whose lower bound is at or below 0, not at the first low mean."""
    gap = stability_gap(looks(0.0, 0.1, 0.5, 0.2, 0.005, -0.1))
    assert gap == StabilityGap(0.5, 0.49, 0.51, 200, 400)


def test_looks_before_the_peak_are_no_recovery() -> None:
    assert stability_gap(looks(0.0, 0.1, 0.005, 0.5, 0.4)).recovered_tokens is None


def test_the_order_of_the_looks_does_not_matter_and_the_first_of_two_peaks_counts() -> None:
    history = looks(0.0, 0.5, 0.2, 0.5, 0.0)
    assert stability_gap(history[::-1]) == stability_gap(history) == StabilityGap(0.5, 0.49, 0.51, 100, 400)


@pytest.mark.parametrize("means", [(), (0.0,), (0.0, -0.1, -0.2), (math.nan,)])
def test_without_a_peak_depth_is_zero_and_the_rest_null(means: tuple[float, ...]) -> None:
    gap = stability_gap(looks(*means))
    assert gap.to_json() == {"depth": 0.0, "low": None, "high": None, "peak_tokens": None, "recovered_tokens": None}


def test_a_peak_without_an_interval_has_null_bounds() -> None:
    history = [Look(100, Delta(0.5, math.nan, math.nan, math.nan, documents=1)), Look(200, delta(0.0))]
    assert stability_gap(history) == StabilityGap(0.5, None, None, 100, 200)


def test_forgetting_is_over_retained_sets_and_gain_over_new_ones() -> None:
    forgetting, gain = summary(
        {
            "general": (Role.RETAINED, delta(0.3)),
            "wiki": (Role.RETAINED, delta(-0.1)),
            "pubmed": (Role.NEW, delta(-0.5)),
            "arxiv": (Role.NEW, delta(0.1)),
        }
    )
    assert forgetting.max == 0.3
    assert forgetting.mean == pytest.approx(0.1)
    assert gain == pytest.approx(0.2)


def test_forgetting_is_not_clamped_at_zero() -> None:
    assert summary({"general": (Role.RETAINED, delta(-0.25))}).forgetting == Forgetting(-0.25, -0.25)


def test_without_sets_of_a_role_there_is_no_figure() -> None:
    assert summary({}) == (Forgetting(None, None), None)
    assert summary({"pubmed": (Role.NEW, delta(-0.5))}) == (Forgetting(None, None), 0.5)


def test_no_gain_is_zero_and_not_minus_zero() -> None:
    gain = summary({"pubmed": (Role.NEW, delta(0.0))}).gain
    assert math.copysign(1, gain) == 1


def test_an_unknown_set_is_not_hidden_by_the_others() -> None:
    unknown = delta(math.nan)
    forgetting, gain = summary(
        {"a": (Role.RETAINED, delta(0.3)), "b": (Role.RETAINED, unknown), "c": (Role.NEW, unknown)}
    )
    assert (forgetting, gain) == (Forgetting(None, None), None)

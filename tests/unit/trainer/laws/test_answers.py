"""What laws are asked: shares under a tolerance, limited corpora, predictions with intervals, and no extrapolation."""

from __future__ import annotations

import numpy as np
import pytest

from rewarm_api.errors import ManifestError
from rewarm_api.snapshot import Role
from rewarm_trainer.laws.answers import Study, best_for_corpus, crossing, largest_share, predicted_loss
from rewarm_trainer.laws.cmr import PowerLaw
from rewarm_trainer.laws.dcpt import DcptLaw
from rewarm_trainer.laws.hull import ExtrapolationError, Hull
from rewarm_trainer.laws.sets import Measurement, fit_set

SIZE = 1_000_000
SHARES = (0.1, 0.25, 0.4, 0.6, 0.8, 0.9)
OLD, NEW = PowerLaw(0.5, 2.0, 2.0), PowerLaw(-0.4, 0.3, 3.0)
BASE = 2.05

# Chemistry, 1.8B parameters, 10B tokens (science.md, section 7): share of new text, general loss; base 2.8602.
CHEMISTRY = ([0.90, 0.91, 0.92, 0.924, 0.93, 0.94, 1.0], [2.9052, 2.9193, 2.9376, 2.9445, 2.9644, 2.9848, 3.4667])


def runs(law, shares=SHARES, tokens=(1000,), noise=0.0, seed=0) -> list[Measurement]:
    random = np.random.default_rng(seed)
    return [
        Measurement(f"{share}-{count}", SIZE, count, share, law(share, count) + noise * random.standard_normal())
        for share in shares
        for count in tokens
    ]


def study(noise=0.0, tokens=(1000,), seed=0, held=()) -> Study:
    old = fit_set(
        "old",
        Role.RETAINED,
        {SIZE: BASE},
        runs(lambda share, _: OLD(share), tokens=tokens, noise=noise, seed=seed),
        runs(lambda share, _: OLD(share), held, tokens, noise, seed + 5000),
    )
    new = fit_set(
        "new", Role.NEW, {SIZE: 4.0}, runs(lambda share, _: NEW(share), tokens=tokens, noise=noise, seed=seed + 9), ()
    )
    return Study({"old": old, "new": new}, study_hull(tokens))


def old_alone(seed: int) -> Study:
    measured = runs(lambda share, _: OLD(share), noise=0.01, seed=seed)
    return Study({"old": fit_set("old", Role.RETAINED, {SIZE: BASE}, measured, ())}, study_hull((1000,)))


def study_hull(tokens) -> Hull:
    return Hull((0.1, 0.9), (min(tokens), max(tokens)), (SIZE, SIZE))


def test_the_largest_share_is_where_the_law_meets_the_tolerance():
    answer = largest_share(study(), 0.03, 1000, SIZE)
    assert answer.share == pytest.approx(OLD.inverse(1.03 * BASE), abs=1e-6)
    assert answer.replay_ratio >= 1 - answer.share
    assert answer.replay_ratio == pytest.approx(1 - answer.share, abs=1e-4)
    assert (answer.law, answer.decided_by, answer.at_border) == ("CMR", "old", False)
    assert answer.low <= answer.share <= answer.high


def test_a_tolerance_beyond_the_grid_is_a_bound_and_one_below_it_has_no_answer():
    assert largest_share(study(), 10.0, 1000, SIZE).at_border
    assert largest_share(study(), 10.0, 1000, SIZE).share == 0.9
    assert largest_share(study(), -0.2, 1000, SIZE) is None


def test_the_strictest_retained_set_decides():
    laws = study()
    strict = fit_set("strict", Role.RETAINED, {SIZE: 2.0}, runs(lambda share, _: OLD(share)), ())
    both = Study({**laws.sets, "strict": strict}, laws.hull)
    answer = largest_share(both, 0.03, 1000, SIZE)
    assert answer.decided_by == "strict"
    assert answer.share == pytest.approx(OLD.inverse(1.03 * 2.0), abs=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """In 40 noisy worlds of six ratios: by chance a 95 % interval covers the truth 34 times or more (p = 0.999)."""
    truth = OLD.inverse(1.03 * BASE)
    hits = 0
    for seed in range(40):
        answer = largest_share(old_alone(seed), 0.03, 1000, SIZE)
        hits += answer.low <= truth <= answer.high
    assert hits >= 34


def test_the_interval_of_a_prediction_holds_one_more_run():
    hits = 0
    random = np.random.default_rng(3)
    for seed in range(40):
        found = predicted_loss(old_alone(seed), "old", 0.5, 1000, SIZE)
        hits += found.low <= OLD(0.5) + 0.01 * random.standard_normal() <= found.high
    assert hits >= 34


def test_three_ratios_leave_no_point_for_an_interval():
    old = fit_set("old", Role.RETAINED, {SIZE: BASE}, runs(lambda share, _: OLD(share), (0.1, 0.5, 0.9)), ())
    answer = largest_share(Study({"old": old}, Hull((0.1, 0.9), (1000, 1000), (SIZE, SIZE))), 0.03, 1000, SIZE)
    assert (answer.low, answer.high) == (None, None)
    assert old.by_place[SIZE, 1000].held_out is None


def test_hold_out_errors_come_from_held_out_runs_or_from_leaving_inner_ratios_out():
    left_out = study(0.001).sets["old"].by_place[SIZE, 1000]
    assert (left_out.held_out_by, left_out.held_out.points) == ("LeaveOneOut", 4)
    held = study(0.001, held=(0.5, 0.7)).sets["old"].by_place[SIZE, 1000]
    assert (held.held_out_by, held.held_out.points) == ("HeldOut", 2)
    assert held.held_out.largest < 0.01


@pytest.mark.parametrize(
    ("share", "tokens", "size", "words"),
    [(0.05, 1000, SIZE, "share"), (0.5, 2000, SIZE, "tokens"), (0.5, 1000, 2 * SIZE, "parameters")],
)
def test_nothing_is_extrapolated_without_being_told_to(share, tokens, size, words):
    with pytest.raises(ExtrapolationError, match=words) as refused:
        predicted_loss(study(), "old", share, tokens, size)
    assert refused.value.exit_code == 64


def test_told_to_it_extrapolates_where_a_law_reaches():
    assert predicted_loss(study(), "old", 0.05, 1000, SIZE, extrapolate=True).loss == pytest.approx(OLD(0.05), abs=1e-4)
    with pytest.raises(ExtrapolationError, match="one budget"):
        predicted_loss(study(), "old", 0.5, 2000, SIZE, extrapolate=True)


def test_the_published_rows_of_chemistry_cross_the_tolerance_where_the_paper_says():
    assert crossing(*CHEMISTRY, 1.03 * 2.8602) == pytest.approx(0.9245, abs=0.0001)
    assert crossing([0.1, 0.9], [1.0, 2.0], 3.0) is None


TRUE = DcptLaw(1.6, 0.0, 0.3, 0.08, 1.1, 1.0, 0.6, 0.4, 0.2, 1.0, 1e6)


@pytest.fixture(scope="module")
def surfaces() -> Study:
    budgets = (500_000, 1_000_000, 2_000_000, 4_000_000)
    new = fit_set("new", Role.NEW, {SIZE: 4.0}, runs(lambda share, d: TRUE(SIZE, d, share), tokens=budgets), ())
    old = fit_set(
        "old", Role.RETAINED, {SIZE: BASE}, runs(lambda share, d: TRUE(SIZE, d, 1 - share), tokens=budgets), ()
    )
    return Study({"new": new, "old": old}, Hull((0.1, 0.9), (budgets[0], budgets[-1]), (SIZE, SIZE)))


def test_between_budgets_the_dcpt_law_speaks(surfaces):
    found = predicted_loss(surfaces, "old", 0.3, 1_500_000, SIZE)
    assert found.law == "D-CPT"
    assert found.loss == pytest.approx(TRUE(SIZE, 1_500_000, 0.7), rel=0.005)
    answer = largest_share(surfaces, 0.1, 1_500_000, SIZE)
    assert TRUE(SIZE, 1_500_000, 1 - answer.share) == pytest.approx(1.1 * BASE, rel=0.005)


def test_a_limited_corpus_takes_the_share_with_the_least_loss(surfaces):
    corpus = 400_000
    answer = best_for_corpus(surfaces, corpus, SIZE)
    grid = np.linspace(0.1, 0.8, 2001)
    best = grid[np.argmin([TRUE(SIZE, corpus / share, share) for share in grid])]
    assert not answer.at_border
    assert answer.share == pytest.approx(best, abs=0.02)
    assert answer.tokens == round(corpus / answer.share)
    assert best_for_corpus(surfaces, 100, SIZE) is None


def test_a_limited_corpus_needs_laws_in_tokens():
    with pytest.raises(ManifestError, match="two budgets"):
        best_for_corpus(study(), 400, SIZE)

"""Effects over seeds: paired documents, known truths found again, arms that do not belong together refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from science_folders import BATCH, LOOKED, STEPS, Law, write_run

from rewarm_bench.effects import Estimate
from science import results
from science.results import Run


def seeds(root: Path, name: str, law: Law, noise: float = 0.02, **others: Law) -> list[Run]:
    return [
        write_run(root / f"{name}-{seed}", {"old": law, **others}, seed=100 * len(name) + seed, noise=noise)
        for seed in (1, 2, 3)
    ]


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def bump(share: float) -> float:
    """Up to 0.5 at a tenth of the run, back to 0.1 at its end."""
    return 0.5 * share / 0.1 if share <= 0.1 else 0.5 - 0.4 * (share - 0.1) / 0.9


def test_change_and_contrast_find_the_truth(tmp_path: Path) -> None:
    high = seeds(tmp_path, "high", lambda share: 0.8 * share, noise=0.01)
    low = seeds(tmp_path, "low", lambda share: 0.3 * share, noise=0.01)
    assert holds(results.change(high, "old"), 0.8)
    contrast = results.contrast(high, low, "old")
    assert holds(contrast, 0.5)
    assert contrast.low > 0.4
    assert results.contrast(low, high, "old").value == pytest.approx(-contrast.value)


def test_without_noise_the_share_removed_is_exact(tmp_path: Path) -> None:
    without = seeds(tmp_path, "without", lambda share: 0.8, noise=0)
    mixed = seeds(tmp_path, "mixed", lambda share: 0.2, noise=0)
    assert results.share_removed(without, mixed, "old").value == pytest.approx(0.75)


def test_the_mean_of_two_sets_weighs_them_equally(tmp_path: Path) -> None:
    one = seeds(tmp_path, "one", lambda share: 0.2, noise=0, new=lambda share: 0.6)
    other = seeds(tmp_path, "other", lambda share: 0.0, noise=0, new=lambda share: 0.0)
    separate = [results.contrast(one, other, name).value for name in ("old", "new")]
    assert results.contrast(one, other, "old", "new").value == pytest.approx(np.mean(separate))


def test_looks_are_paired_with_the_same_documents_and_end_with_the_final_model(tmp_path: Path) -> None:
    run = seeds(tmp_path, "gap", bump, noise=0)[0]
    looks = run.looks("old")
    assert [look.tokens for look in looks] == [step * BATCH for step in (1, 2, 4, 8, 10, 25, 50, 75, STEPS)]
    assert {len(look.documents.hashes) for look in looks} == {LOOKED}
    assert results.peak(looks).tokens == 10 * BATCH
    assert results.early_peak(0.05)(looks).tokens == 8 * BATCH, "up to the first look at or after a twentieth"


def test_a_gap_is_measured_at_its_peak(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "gap", bump, noise=0.002)
    assert holds(results.over(results.peak, runs, "old"), 0.5)
    assert holds(results.recovered(runs, "old"), 0.8)
    assert holds(results.between(lambda looks: (results.peak(looks), looks[-1]), runs, "old"), -0.4)
    flat = seeds(tmp_path, "flat", lambda share: 0.1 * share, noise=0.002)
    assert results.rise_contrast(results.peak, runs, flat, "old").low > 0.3


def test_one_number_per_run_has_the_t_interval_over_seeds() -> None:
    estimate = results.over_seeds([0.1, 0.2, 0.3])
    # t(2 degrees of freedom) = 4.303, standard error 0.1 / sqrt(3).
    assert estimate.value == pytest.approx(0.2)
    assert (estimate.low, estimate.high) == pytest.approx((0.2 - 0.24843, 0.2 + 0.24843), abs=1e-4)


def test_arms_that_scored_other_documents_are_refused(tmp_path: Path) -> None:
    one = seeds(tmp_path, "one", lambda share: 0.2)
    other = seeds(tmp_path, "other", lambda share: 0.1)
    path = other[1].folder / "state" / "final" / "old.json"
    path.write_text(path.read_text().replace("document-7", "document-x"))
    baseline = other[1].folder / "state" / "baseline" / "old.json"
    baseline.write_text(baseline.read_text().replace("document-7", "document-x"))
    with pytest.raises(ValueError, match="different documents"):
        results.contrast(one, other, "old")


def test_curves_are_drawn_where_all_seeds_looked(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "gap", bump, noise=0)
    tokens, values = results.curves(runs, "old")
    (removed,) = (runs[1].folder / "state" / "looks").glob("step-*25")
    shutil.rmtree(removed)
    fewer, left = results.curves(runs, "old")
    assert sorted(set(tokens) - set(fewer)) == [25 * BATCH]
    assert (left == values[:, tokens != 25 * BATCH]).all()

from __future__ import annotations

import numpy as np
import pytest

from rewarm_bench.effects import PerDocument, mean_delta, removed_fraction


def arm(effect: float, *, seed: int = 0, noise: float = 0.0, documents: int = 64) -> PerDocument:
    shared = np.random.default_rng(7)
    labels = shared.integers(200, 2000, documents).astype(float)
    baseline = 4 * labels
    own = np.random.default_rng(seed)
    final = baseline + labels * (effect + noise * own.normal(size=documents))
    return PerDocument(tuple(map(str, range(documents))), baseline, final, labels)


def test_removed_fraction_without_noise_is_exact():
    estimate = removed_fraction([arm(0.8)], [arm(0.2)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.75, 0.75, 0.75))


def test_a_control_arm_moves_the_zero():
    estimate = removed_fraction([arm(0.8)], [arm(-0.1)], [arm(-0.2)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_holds_the_truth_and_excludes_nothing_removed():
    estimate = removed_fraction([arm(0.8, seed=1, noise=0.2)], [arm(0.2, seed=2, noise=0.2)])
    assert 0 < estimate.low < 0.75 < estimate.high < 1


def test_pairing_matters():
    shared = np.random.default_rng(3).normal(size=64)
    plain, mixed = arm(0.8), arm(0.2)
    noise = plain.labels * shared * 0.4
    paired = removed_fraction(
        [PerDocument(plain.hashes, plain.baseline, plain.final + noise, plain.labels)],
        [PerDocument(mixed.hashes, mixed.baseline, mixed.final + noise / 4, mixed.labels)],
    )
    # Each document's forgetting is scaled by the same quarter: nothing is left to chance.
    assert paired.high - paired.low < 1e-9


def test_seeds_widen_the_interval():
    alike = mean_delta([arm(0.5, seed=seed, noise=0.1) for seed in range(3)])
    apart = mean_delta([arm(effect, seed=seed, noise=0.1) for seed, effect in enumerate((0.2, 0.5, 0.8))])
    assert alike.value == pytest.approx(apart.value, abs=0.02)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_repeating_a_seed_adds_no_certainty_about_documents():
    one = mean_delta([arm(0.5, seed=1, noise=0.3)])
    thrice = mean_delta([arm(0.5, seed=1, noise=0.3)] * 3)
    assert (thrice.low, thrice.high) == pytest.approx((one.low, one.high))


def test_other_documents_or_another_base_are_refused():
    plain, mixed = arm(0.8), arm(0.2)
    other = PerDocument(tuple("x" + name for name in mixed.hashes), mixed.baseline, mixed.final, mixed.labels)
    with pytest.raises(ValueError, match="different documents"):
        removed_fraction([plain], [other])
    shifted = PerDocument(mixed.hashes, mixed.baseline + 50, mixed.final, mixed.labels)
    with pytest.raises(ValueError, match="different bases"):
        removed_fraction([plain], [shifted])

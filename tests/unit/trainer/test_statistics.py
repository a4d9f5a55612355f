"""Intervals by trainer.md's definition, against a second transcription of it, and their edges."""

from __future__ import annotations

import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewarm_trainer import statistics
from rewarm_trainer.statistics import Delta, paired_delta, share_removed, verdict


def sample(documents: int, seed: int, shift: float = 0.02, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Summed differences and labels: log-normal lengths, per-token differences normal around `shift`."""
    draw = np.random.default_rng(seed)
    labels = np.round(np.exp(draw.normal(5, 1, documents))) + 1
    return draw.normal(shift, spread, documents) * labels, labels


def by_the_book(d: np.ndarray, n: np.ndarray) -> tuple[float, float, float, float, str]:
    """The definition as written, all 10,000 x n at once and without any shortcut: mean, low, high, p, which."""
    total = n.sum()
    delta = d.sum() / total
    residual = d - delta * n
    leverage = n / total
    error = np.sqrt(((residual / (1 - leverage)) ** 2).sum()) / total
    reach = stats.t.ppf(0.975, total**2 / (n**2).sum() - 1) * error
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, len(n), (10000, len(n)))
    sums = n[drawn].sum(1)
    deltas = d[drawn].sum(1) / sums
    errors = np.sqrt(((d[drawn] - deltas[:, None] * n[drawn]) ** 2).sum(1)) / sums
    t = (deltas - delta) / errors
    plain = np.sqrt((residual**2).sum()) / total
    low, high = delta - np.quantile(t, 0.975) * plain, delta - np.quantile(t, 0.025) * plain
    beyond = min((t >= delta / plain).sum(), (t <= delta / plain).sum())
    p = min(1, 2 * (beyond + 1) / 10001)
    if high - low > 2 * reach:
        return delta, low, high, p, "bootstrap"
    return delta, delta - reach, delta + reach, p, "cluster"


@pytest.mark.parametrize(
    ("documents", "seed", "wider"),
    [(30, 0, "bootstrap"), (30, 3, "bootstrap"), (101, 6, "cluster"), (400, 5, "bootstrap"), (1000, 3, "cluster")],
)
def test_the_interval_is_the_definition(documents: int, seed: int, wider: str) -> None:
    d, n = sample(documents, seed)
    mean, low, high, p, which = by_the_book(d, n)
    found = paired_delta(d, n)
    assert [found.mean, found.low, found.high] == pytest.approx([mean, low, high], rel=1e-9)
    assert found.p == pytest.approx(p, abs=1e-12)
    assert (found.documents, found.confidence, which) == (documents, 0.95, wider)


def test_deterministic_and_the_same_at_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    d, n = sample(123, 7)
    first = paired_delta(d, n)
    for draws in (1, 999, 1 << 20):
        monkeypatch.setattr(statistics, "CHUNK_DRAWS", draws)
        assert paired_delta(d, n) == first


def test_a_thousand_documents_take_less_than_a_second() -> None:
    d, n = sample(1000, 0)
    began = time.perf_counter()
    paired_delta(d, n)
    assert time.perf_counter() - began < 1.0


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    """All draws at once would be 10,000 x 3,000 x 8 bytes, three times over: 720 MB."""
    d, n = sample(3000, 0)
    tracemalloc.start()
    paired_delta(d, n)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_the_interval_covers_zero_about_as_often_as_it_says() -> None:
    """300 data sets of 30 documents whose expected difference is zero; trainer.md saw 95.0 to 96.6 % over many more."""
    covered = sum(
        delta.low <= 0 <= delta.high for delta in (paired_delta(*sample(30, seed, shift=0.0)) for seed in range(300))
    )
    assert 0.92 <= covered / 300 <= 0.99


def test_equal_models_give_zero_to_zero() -> None:
    delta = paired_delta(np.zeros(40), np.arange(1, 41))
    assert (delta.mean, delta.low, delta.high, delta.p) == (0.0, 0.0, 0.0, 1.0)
    assert verdict(delta) == "Tie"


def test_documents_that_all_changed_alike_leave_no_doubt() -> None:
    labels = np.arange(1, 41)
    delta = paired_delta(0.1 * labels, labels)
    assert (delta.mean, delta.low, delta.high) == pytest.approx((0.1, 0.1, 0.1))
    assert delta.p == pytest.approx(2 / 10001)
    assert verdict(delta) == "Lose"


@pytest.mark.filterwarnings("error")
def test_one_changed_document_among_many_equal_ones_is_no_verdict() -> None:
    """A third of the resamples miss it and have no spread: the interval stays finite, the p-value stays large."""
    delta = paired_delta([0.0] * 39 + [5.0], [10] * 40)
    assert delta.low < 0 < delta.high
    assert math.isfinite(delta.low)
    assert math.isfinite(delta.high)
    assert delta.p > 0.1
    assert verdict(delta) == "Tie"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("difference", "labels"),
    [([3.0], [10]), ([3.0, 0.0], [10, 0]), ([], []), ([0.0, 0.0], [0, 0]), ([math.inf, 1.0], [10, 10])],
)
def test_without_two_documents_to_compare_there_is_no_interval(difference: list[float], labels: list[int]) -> None:
    delta = paired_delta(difference, labels)
    assert math.isnan(delta.low)
    assert math.isnan(delta.high)
    assert math.isnan(delta.p)
    assert delta.documents == len(labels)
    assert verdict(delta) is None
    assert json.loads(json.dumps(delta.to_json(), allow_nan=False))["low"] is None


@pytest.mark.filterwarnings("error")
def test_two_documents_have_a_wide_interval_and_no_verdict() -> None:
    delta = paired_delta([1.0, 3.0], [10, 10])
    assert delta.mean == pytest.approx(0.2)
    assert delta.low < -1
    assert delta.high > 1
    assert delta.p > 0.4
    assert verdict(delta) is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), documents=st.integers(3, 60))
def test_swapping_the_models_flips_mean_and_p_stays_on_its_scale(seed: int, documents: int) -> None:
    d, n = sample(documents, seed)
    there, back = paired_delta(d, n), paired_delta(-d, n)
    assert back.mean == pytest.approx(-there.mean, abs=1e-15)
    assert [back.low, back.high] == pytest.approx([-there.high, -there.low], rel=1e-9, abs=1e-12)
    assert back.p == pytest.approx(there.p)
    assert 0 < there.p <= 1


@pytest.mark.parametrize(
    ("low", "high", "documents", "expected"),
    [
        (-0.2, -0.1, 30, "Win"),
        (0.1, 0.2, 30, "Lose"),
        (-0.1, 0.1, 30, "Tie"),
        (0.0, 0.1, 30, "Tie"),
        (-0.1, 0.0, 30, "Tie"),
        (-0.2, -0.1, 29, None),
        (math.nan, math.nan, 30, None),
    ],
)
def test_verdict(low: float, high: float, documents: int, expected: str | None) -> None:
    assert verdict(Delta(0.0, low, high, 0.5, documents=documents)) == expected


def test_delta_survives_json() -> None:
    delta = Delta(0.25, math.nan, 0.5, 0.125, documents=12)
    back = Delta.from_json(json.loads(json.dumps(delta.to_json())))
    assert math.isnan(back.low)
    assert (back.mean, back.high, back.p, back.confidence, back.documents) == (0.25, 0.5, 0.125, 0.95, 12)
    bare = Delta.from_json({"mean": 1.0, "low": 0.5, "high": 1.5, "confidence": 0.95})
    assert math.isnan(bare.p)
    assert bare.documents == 0


def test_unlike_lengths_and_negative_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        paired_delta([1.0, 2.0], [1, 2, 3])
    with pytest.raises(ValueError, match="labels below zero"):
        paired_delta([1.0, 2.0], [1, -2])


def test_share_removed_is_the_ratio_of_the_sums_and_covers_the_truth() -> None:
    draw = np.random.default_rng(4)
    untreated, labels = sample(300, 11, shift=0.8, spread=0.2)
    treated = 0.25 * untreated + draw.normal(0, 0.02, 300) * labels
    share = share_removed(untreated, treated, labels)
    assert share.mean == pytest.approx(1 - treated.sum() / untreated.sum())
    assert share.low < 0.75 < share.high
    assert share.high - share.low < 0.05


def test_nothing_can_be_removed_where_nothing_was_forgotten() -> None:
    d, n = sample(100, 1, shift=0.0)
    share = share_removed(d, 0.5 * d, n)
    assert math.isnan(share.mean)
    assert math.isnan(share.low)
    assert share.documents == 100

"""What a set can resolve, against intervals that were really computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer.resolution import ASSUMED, Documents, Spread, resolution
from rewarm_trainer.statistics import paired_delta, verdict


def sample(draw: np.random.Generator, documents: int, change: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.round(np.exp(draw.normal(5, 0.6, documents))) + 1
    return (change + draw.normal(0, 0.15, documents)) * labels, labels


@pytest.mark.parametrize("documents", [40, 200])
def test_the_reach_is_about_half_the_interval_and_the_detectable_change_is_found(documents: int) -> None:
    draw = np.random.default_rng(documents)
    widths, found, facts = [], 0, []
    for _ in range(150):
        d, n = sample(draw, documents, 0.0)
        facts.append(resolution(Documents.of(n, "test"), Spread.measured(d, n, "test")))
        delta = paired_delta(d, n, resamples=300)
        widths.append((delta.high - delta.low) / 2)
    planned = float(np.mean([each["detectable"] for each in facts]))
    assert np.mean([each["reach"] for each in facts]) == pytest.approx(np.mean(widths), rel=0.15)
    for _ in range(150):
        found += verdict(paired_delta(*sample(draw, documents, planned), resamples=300)) == "Lose"
    assert 0.65 <= found / 150 <= 0.9


@given(st.integers(2, 5000), st.floats(0.001, 1.0))
def test_more_documents_resolve_more(documents: int, spread: float) -> None:
    few, many = (
        resolution(Documents.of(np.full(count, 100), "test"), Spread(spread, "test"))
        for count in (documents, 4 * documents)
    )
    assert few["effective_documents"] == documents
    assert 0 < many["reach"] < few["reach"]
    assert few["detectable"] > few["reach"]
    assert few["verdict"] == (documents >= 30)


def test_one_long_document_counts_for_most() -> None:
    documents = Documents.of([10_000, *[10] * 99], "test")
    assert documents.count == 100
    assert documents.effective < 1.3


def test_one_document_resolves_nothing() -> None:
    facts = resolution(Documents.of([100], "test"), ASSUMED)
    assert (facts["reach"], facts["detectable"], facts["verdict"]) == (None, None, False)

"""Overfitting is held-out loss that rises while training loss falls, on text that was repeated; nothing else is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rewarm_trainer.overfitting import Lowest, overfitted

LABELS = np.full(60, 50)
RANDOM = np.random.default_rng(4)
TEXTS = RANDOM.normal(3.0, 0.5, 60) * 50


def nats(change: float, seed: int = 0) -> np.ndarray:
    """Documents whose loss lies `change` nats per token above where it began, give or take."""
    return TEXTS + 50 * (change + np.random.default_rng(seed).normal(0, 0.02, 60))


def looks(*changes: float) -> list[dict[str, Any] | None]:
    lowest = Lowest()
    found = []
    for number, change in enumerate(changes, start=1):
        # Through JSON, as a checkpoint between any two looks would take it.
        lowest = Lowest(json.loads(json.dumps(lowest.looks)))
        found.append(lowest.rise("new", number, number * 100, nats(change, number), LABELS))
    return found


def test_the_rise_is_paired_with_the_lowest_look() -> None:
    found = looks(-0.1, -0.3, -0.25, -0.35, -0.2)
    assert [None if each is None else each["since"] for each in found] == [None, None, 200, None, 400]
    last = found[-1]
    assert last is not None
    assert last["mean"] == pytest.approx(0.15, abs=0.01)
    assert 0.13 < last["low"] < last["mean"] < last["high"] < 0.17, "far tighter than the texts differ"


def test_the_whole_set_is_compared_on_the_documents_that_were_looked_at() -> None:
    lowest = Lowest()
    lowest.rise("new", 1, 100, nats(-0.3)[:20], LABELS[:20])
    found = lowest.rise("new", 2, 200, nats(-0.1, 2), LABELS)
    assert found is not None
    assert found["documents"] == 20


def test_a_look_that_is_taken_again_knows_nothing_of_later_ones() -> None:
    lowest = Lowest()
    for step in (1, 2, 3):
        lowest.rise("new", step, step, nats(-0.1 * step, step), LABELS)
    assert lowest.rise("new", 2, 2, nats(-0.2, 2), LABELS) is None
    assert lowest.looks["new"]["step"] == 2
    assert lowest.rise("new", 3, 3, np.full(60, np.nan), LABELS) is not None, "and nan is no lowest"
    assert lowest.looks["new"]["step"] == 2


def steps_of(early: float, late: float) -> list[dict[str, Any]]:
    return [{"tokens": 10 * n, "losses": {"new": early + (late - early) * n / 100}} for n in range(1, 101)]


def look_with(rise: dict[str, Any] | None) -> dict[str, Any]:
    return {"sets": {"new": {"rise": rise}}}


RISE = {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.001, "since": 300}


def test_overfitting_needs_repetition_a_clear_rise_and_a_falling_training_loss() -> None:
    (found,) = overfitted(look_with(RISE), steps_of(3.0, 2.0), {"new": 8.0}, 1000)
    assert (found.source, found.since, found.epochs) == ("new", 300, 8.0)
    assert found.training == pytest.approx(-0.7)
    assert "overfits: in 8.0 passes its held-out loss rose by 0.1000 (95 % +0.0500 to +0.1500)" in found.sentence()
    assert "while its training loss fell by 0.7000" in found.sentence()
    assert overfitted(look_with(RISE), steps_of(3.0, 2.0), {"new": 1.0}, 1000) == []
    assert overfitted(look_with(RISE), steps_of(2.0, 3.0), {"new": 8.0}, 1000) == [], "both rose: not by heart"
    assert overfitted(look_with({**RISE, "low": -0.01}), steps_of(3.0, 2.0), {"new": 8.0}, 1000) == []
    assert overfitted(look_with(None), steps_of(3.0, 2.0), {"new": 8.0}, 1000) == []
    assert overfitted(look_with(RISE), [], {"new": 8.0}, 1000) == [], "without a log nobody knows"
    assert overfitted({"sets": {}}, steps_of(3.0, 2.0), {"new": 8.0}, 1000) == []

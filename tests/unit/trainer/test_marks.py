"""Which steps look, commit and log."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_api.snapshot import Plan
from rewarm_trainer.marks import (
    evaluation_steps,
    fires,
    is_checkpoint_step,
    is_evaluation_step,
    is_log_step,
)


def plan(*, steps: int, batch: int = 10, evaluate: int = 100, checkpoint: int = 250) -> Plan:
    return Plan(
        requested_tokens=steps * batch,
        tokens_per_step=batch,
        rows_per_step=1,
        steps=steps,
        tokens=steps * batch,
        segments=(),
        evaluation_every=evaluate,
        checkpoint_every=checkpoint,
        trunk=False,
    )


@given(every=st.integers(1, 1000), batch=st.integers(1, 1000), steps=st.integers(1, 200))
def test_a_mark_fires_after_the_first_step_at_or_past_each_multiple(every: int, batch: int, steps: int) -> None:
    fired = [step for step in range(1, steps + 1) if fires(every, (step - 1) * batch, step * batch)]
    firsts = {-(-mark * every // batch) for mark in range(1, steps * batch // every + 1)}
    assert fired == sorted(firsts)


def test_dense_looks_after_the_start_then_marks_then_the_end() -> None:
    assert sorted(evaluation_steps(plan(steps=33))) == [1, 2, 4, 8, 10, 20, 30, 33]


def test_a_power_of_two_that_reaches_the_mark_is_no_dense_look() -> None:
    """2^j * batch < every, strictly: with batch 10 and every 80, step 8 is a mark and 16 too, 32 is one by itself."""
    assert sorted(evaluation_steps(plan(steps=20, evaluate=80))) == [1, 2, 4, 8, 16, 20]
    assert sorted(evaluation_steps(plan(steps=9, evaluate=90))) == [1, 2, 4, 8, 9]


def test_dense_looks_again_after_a_phase_border() -> None:
    assert sorted(evaluation_steps(plan(steps=33), starts=(0, 13))) == [1, 2, 4, 8, 10, 14, 15, 17, 20, 21, 30, 33]


def test_after_a_border_too_the_dense_looks_end_strictly_before_one_mark() -> None:
    """Step 13 + 8 would stand exactly `every` = 80 tokens after the border: no dense look."""
    assert sorted(evaluation_steps(plan(steps=30, evaluate=80), starts=(13,))) == [8, 14, 15, 16, 17, 24, 30]


@settings(deadline=None)
@given(
    steps=st.integers(1, 120),
    batch=st.integers(1, 50),
    evaluate=st.integers(1, 900),
    starts=st.sets(st.integers(0, 130), max_size=3).map(lambda found: tuple(sorted(found | {0}))),
)
def test_the_predicate_and_the_set_agree(steps: int, batch: int, evaluate: int, starts: tuple[int, ...]) -> None:
    case = plan(steps=steps, batch=batch, evaluate=evaluate)
    asked = {step for step in range(-1, steps + 3) if is_evaluation_step(case, step, starts)}
    assert asked == evaluation_steps(case, starts)
    assert steps in asked


def test_checkpoints_at_the_marks_and_at_the_end() -> None:
    case = plan(steps=33)
    assert [step for step in range(0, 35) if is_checkpoint_step(case, step)] == [25, 33]


def test_the_log_is_dense_at_first_then_every_tenth_and_every_mark() -> None:
    case = plan(steps=1013, evaluate=4090, checkpoint=2530)
    logged = [step for step in range(1, 1014) if is_log_step(case, step)]
    assert logged[:100] == list(range(1, 101))
    assert {128, 253, 409, 506, 1013} <= set(logged)
    assert [step for step in logged if step > 100 and step % 10 and step not in {128, 253, 256, 409, 506, 759}] == [
        818,
        1012,
        1013,
    ]


def test_a_mark_every_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        fires(0, 0, 10)

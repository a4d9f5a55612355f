"""Which checkpoints an average needs, and that they are still there when it comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import plan_of

from rewarm_api.finish_rules import checkpoints_of
from rewarm_api.snapshot import FinishStep
from rewarm_trainer import marks
from rewarm_trainer.weights.retention import average_steps, averaged, spared


def average_of(last: int) -> tuple[FinishStep, ...]:
    return (FinishStep(kind="average", options={"last": last, "kind": "SMA", "alpha": 0.2}),)


def test_an_average_is_made_of_marks_and_the_end() -> None:
    plan = plan_of(20, commit=3)
    assert average_steps(plan, 20, 4) == [12, 15, 18, 20]
    assert average_steps(plan, 18, 2) == [15, 18]
    assert average_steps(plan, 10, 3) == [6, 9, 10], "training that ended early"
    assert average_steps(plan, 2, 5) == [2]
    assert averaged(()) == 0
    assert spared(plan, (), 20) == set()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 15), st.integers(2, 8), st.integers(1, 4), st.data())
def test_what_an_average_needs_was_never_pruned(steps, every, last, keep, data) -> None:
    """Wherever training ends, and whatever else was committed on the way."""
    plan = plan_of(steps, commit=every)
    end = data.draw(st.integers(1, steps))
    extra = data.draw(st.sets(st.integers(1, end)))
    committed: list[int] = []
    for step in range(1, end + 1):
        if marks.is_checkpoint_step(plan, step) or step in extra or step == end:
            committed.append(step)
            needed = spared(plan, average_of(last), step)
            committed = [each for each in committed[:-keep] if each in needed] + committed[-keep:]
    assert set(average_steps(plan, end, last)) <= set(committed)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 5000))
def test_the_manifest_counts_the_checkpoints_that_training_commits(steps, every) -> None:
    plan = plan_of(steps, rows=2, length=10).model_copy(update={"checkpoint_every": every})
    found = sum(marks.is_checkpoint_step(plan, step) for step in range(1, steps + 1))
    assert checkpoints_of(plan.tokens, plan.tokens_per_step, every) == found

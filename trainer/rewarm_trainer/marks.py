"""Decides after which steps to evaluate, to commit a checkpoint and to log: pure functions of the plan.

step     0    1  2     4           8                  every             2 x every          last
look     o    |  |     |           |                    |                   |                |
      baseline  dense while 2^j x batch < every        marks, every X tokens              always
"""

from __future__ import annotations

from collections.abc import Collection

from rewarm_api.snapshot import Plan

LOG_EACH_STEP_TO = 100
LOG_EVERY_STEPS = 10


def fires(every: int, tokens_before: int, tokens_after: int) -> bool:
    """Whether a mark of `every` tokens fires after the step from `tokens_before` to `tokens_after`.

    It fires after the first step with tokens >= k * every, k = 1, 2, ...; once, however many k one step passes.
    """
    if every < 1:
        raise ValueError(f"a mark every {every} tokens: expected 1 or more")
    return tokens_after // every > tokens_before // every


def _fires_after(plan: Plan, every: int, step: int) -> bool:
    return fires(every, (step - 1) * plan.tokens_per_step, step * plan.tokens_per_step)


def is_evaluation_step(plan: Plan, step: int, starts: Collection[int] = (0,)) -> bool:
    """Whether a look follows `step` (from 1). `starts` are the steps after which a phase began: 0 is the run's start.

    Looks: the marks of `evaluation_every`; the last step; and after every start s the steps s + 2^j with
    2^j * batch < every, because the stability gap (2406.14833) hides between coarse looks.
    The baseline at step 0 is no step and is not asked for here.
    """
    if not 1 <= step <= plan.steps:
        return False
    since = (step - start for start in starts if start < step)
    dense = any(steps & (steps - 1) == 0 and steps * plan.tokens_per_step < plan.evaluation_every for steps in since)
    return dense or step == plan.steps or _fires_after(plan, plan.evaluation_every, step)


def evaluation_steps(plan: Plan, starts: Collection[int] = (0,)) -> frozenset[int]:
    """All steps of the plan for which `is_evaluation_step` holds. Costs as many steps as it returns."""
    batch, every = plan.tokens_per_step, plan.evaluation_every
    if every < 1:
        raise ValueError(f"a mark every {every} tokens: expected 1 or more")
    if every <= batch:
        return frozenset(range(1, plan.steps + 1))
    marks = {-(-mark * every // batch) for mark in range(1, plan.steps * batch // every + 1)}
    for start in starts:
        steps = 1
        while steps * batch < every:
            marks.add(start + steps)
            steps *= 2
    return frozenset(step for step in marks | {plan.steps} if 1 <= step <= plan.steps)


def is_checkpoint_step(plan: Plan, step: int) -> bool:
    """Whether a checkpoint by tokens follows `step` (from 1): the marks of `checkpoint_every`, and the last step."""
    if not 1 <= step <= plan.steps:
        return False
    return step == plan.steps or _fires_after(plan, plan.checkpoint_every, step)


def is_log_step(plan: Plan, step: int, starts: Collection[int] = (0,)) -> bool:
    """Whether `step` (from 1) is logged: each to 100, then every 10th, and every mark."""
    often = step <= LOG_EACH_STEP_TO or step % LOG_EVERY_STEPS == 0
    return often or is_evaluation_step(plan, step, starts) or is_checkpoint_step(plan, step)

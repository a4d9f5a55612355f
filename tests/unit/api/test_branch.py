"""`baseModel.run.anneal`: what a branch may say, and the plan that its trunk's learning rate gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rewarm_api.errors import ManifestError
from rewarm_api.resolve import make_plan, resolve
from rewarm_api.validate import Validation
from rewarm_trainer.schedule import learning_rate

BRANCH = {
    "spec.baseModel": "{run: {path: trunk, checkpoint: Latest, anneal: {length: 50%}}}",
    "spec.schedule": "{peakLearningRate: 1e-3, finalLearningRate: 1e-5}",
}


def test_a_branch_is_planned_once_its_trunk_was_read(check: Callable[..., Validation]) -> None:
    run = check(BRANCH).run
    assert run is not None
    snapshot = resolve(run, uid="u")
    assert snapshot.plan is None
    assert (snapshot.schedule.kind, snapshot.schedule.optimizer_state) == ("Anneal", "Keep")
    assert snapshot.base_model.options["anneal"] == {"length": "50%", "decay": "OneMinusSqrt"}
    plan = make_plan(snapshot, 64_000, trunk_rate=5e-4)
    rates = [learning_rate(plan.segments, step * 1024) for step in range(1, plan.steps + 1)]
    half = plan.tokens // 2
    expected = [
        5e-4
        if step * 1024 <= half
        else 1e-5 + (5e-4 - 1e-5) * (1 - ((step * 1024 - half) / (plan.tokens - half)) ** 0.5)
        for step in range(1, plan.steps + 1)
    ]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert (rates[-1], plan.trunk) == (1e-5, False)


def test_a_branch_that_only_anneals_has_one_segment(check: Callable[..., Validation]) -> None:
    run = check({**BRANCH, "spec.baseModel.run.anneal.length": "64K"}).run
    assert run is not None
    plan = make_plan(resolve(run, uid="u"), 64_000, trunk_rate=5e-4)
    assert [(segment.kind, segment.start) for segment in plan.segments] == [("Constant", 0), ("Anneal", 512)]
    with pytest.raises(ManifestError, match=r"spec\.baseModel\.run\.anneal\.length: found 64000 tokens"):
        make_plan(resolve(run, uid="u"), 1024, trunk_rate=5e-4)


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a warm-up": ({"spec.schedule.warmup": "1%"}, "spec.schedule.warmup", "warmup with baseModel.run.anneal"),
    "a kind": ({"spec.schedule.kind": "Rewarm"}, "spec.schedule.kind", "kind with baseModel.run.anneal"),
    "a decay": ({"spec.schedule.decay": "Linear"}, "spec.schedule.decay", "decay with baseModel.run.anneal"),
    "an optimizer made new": (
        {"spec.schedule.optimizerState": "Reset"}, "spec.schedule.optimizerState", "Reset",
    ),
    "longer than the budget": (
        {"spec.baseModel.run.anneal.length": "65K"}, "spec.baseModel.run.anneal.length", "65000 tokens",
    ),
    "no length": ({"spec.baseModel.run.anneal.length": "0"}, "spec.baseModel.run.anneal.length", "0"),
    "exponential to zero": (
        {"spec.baseModel.run.anneal.decay": "Exponential", "spec.schedule.finalLearningRate": "0"},
        "spec.schedule.finalLearningRate", "0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "found"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(check: Callable[..., Validation], changes: dict[str, str], field: str, found: str) -> None:
    (problem,) = check({**BRANCH, **changes}).problems
    assert (problem.field, problem.found) == (field, found)


def test_a_branch_may_name_the_policy_that_it_has(check: Callable[..., Validation]) -> None:
    assert check({**BRANCH, "spec.schedule.optimizerState": "Keep"}).valid

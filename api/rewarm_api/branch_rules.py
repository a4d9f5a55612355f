"""Rules of `baseModel.run.anneal`: a branch takes its learning rate from the trunk, so the schedule says only its ends.

What the trunk alone can tell (its kind, the rate where it stands) is checked once it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import found_text
from rewarm_api.rules import rule
from rewarm_api.segments import Lengths, length_problem

_USED = ("peak_learning_rate", "final_learning_rate", "optimizer_state")


def anneal_of(spec: Any) -> Any:
    """The anneal of a branch; None for any other run."""
    base = spec.base_model
    return base.run.anneal if base is not None and base.run is not None else None


@rule("baseModel.run.anneal", "schedule")
def a_branch_has_no_schedule_of_its_own(spec: Any) -> Iterator[Problem]:
    if anneal_of(spec) is None:
        return
    fields = type(spec.schedule).model_fields
    for name in spec.schedule.model_fields_set:
        if name not in _USED and name in fields:
            alias = str(fields[name].alias)
            yield Problem(
                f"spec.schedule.{alias}",
                f"{alias} with baseModel.run.anneal",
                "peakLearningRate, finalLearningRate: the rest follows from the trunk",
                f"remove {alias}, or remove anneal",
            )


@rule("baseModel.run.anneal", "schedule.optimizerState")
def a_branch_keeps_the_optimizer(spec: Any) -> Iterator[Problem]:
    state = spec.schedule.optimizer_state if spec.schedule else None
    if anneal_of(spec) is not None and state not in (None, "Keep"):
        yield Problem(
            "spec.schedule.optimizerState", str(state), "Keep: a branch goes on where its trunk stands", "leave it out"
        )


@rule("baseModel.run.anneal.decay", "schedule.finalLearningRate")
def a_branch_decays_to_a_floor(spec: Any) -> Iterator[Problem]:
    anneal = anneal_of(spec)
    if anneal is not None and anneal.decay == "Exponential" and spec.schedule.final_learning_rate == 0:
        yield Problem(
            "spec.schedule.finalLearningRate",
            found_text(spec.schedule.final_learning_rate),
            "0 < finalLearningRate with an Exponential decay",
            "raise finalLearningRate, or choose another decay",
        )


@rule("baseModel.run.anneal.length", "budget.tokens", "budget.epochs", "training.globalBatchTokens")
def a_branch_is_as_long_as_its_anneal(spec: Any) -> Iterator[Problem]:
    anneal, budget = anneal_of(spec), spec.budget
    if anneal is None or (budget.tokens is None and budget.epochs is None):
        return
    batch = spec.training.global_batch_tokens
    lengths = Lengths("Anneal", "0", None, anneal.length, None)
    problem = length_problem(lengths, None if budget.tokens is None else -(-budget.tokens // batch) * batch)
    if problem is not None:
        yield problem

"""Rules of `spec.replay.method` and what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.rules import rule

META = "MetaExperienceReplay"


@rule("replay.method")
def meta_experience_belongs_to_its_method(spec: Any) -> Iterator[Problem]:
    replay = spec.replay
    if replay is not None and replay.method != META and "meta_experience" in replay.model_fields_set:
        yield Problem(
            "spec.replay.metaExperience",
            f"metaExperience with method {replay.method}",
            f"metaExperience only with method {META}",
            f"remove metaExperience, or set method to {META}",
        )


@rule("replay.method", "replay.metaExperience.interval", "budget.tokens", "budget.epochs", "training.globalBatchTokens")
def periods_fit_the_plan(spec: Any) -> Iterator[Problem]:
    replay, budget = spec.replay, spec.budget
    if replay is None or replay.method != META or budget.tokens is None:
        return
    steps = -(-budget.tokens // spec.training.global_batch_tokens)
    given = replay.meta_experience
    yield from short_plan(500 if given is None else given.interval, steps)


def short_plan(interval: int, steps: int) -> Iterator[Problem]:
    """A plan of less than two periods is hardly a method: with epsilon 0.1 it would barely move (64)."""
    if steps < 2 * interval:
        yield Problem(
            "spec.replay.metaExperience.interval",
            f"{interval} of {steps} steps",
            "at least two intervals in the plan",
            f"use at most {steps // 2}, or raise the budget" if steps > 1 else "raise the budget",
        )

"""Which checkpoints an average at the end is made of, and which must therefore stay until then. Pure."""

from __future__ import annotations

from rewarm_api.snapshot import FinishStep, Plan
from rewarm_trainer import marks


def average_steps(plan: Plan, last: int, count: int) -> list[int]:
    """The steps whose checkpoints an average of `count` is made of: marks by tokens up to `last`, and `last` itself.

    Checkpoints by minutes or on request are not among them: the average must not depend on when a run was interrupted.
    """
    found = [step for step in range(1, last) if marks.is_checkpoint_step(plan, step)]
    return [*found, last][-count:]


def averaged(finish: tuple[FinishStep, ...]) -> int:
    """How many of the last checkpoints finish needs."""
    return max((step.options["last"] for step in finish if step.kind == "average"), default=0)


def spared(plan: Plan, finish: tuple[FinishStep, ...], step: int) -> set[int]:
    """Checkpoints that must stay after `step`, because an average may need them: training can end here."""
    count = averaged(finish)
    return set(average_steps(plan, step, count)) if count else set()

"""Warns where an ascending order meets a steep decay: the best rows come last, and nothing is learned from them.

"How learning-rate decay wastes your best data" (2511.18903, abstract and second-hand [S]): the learning rate is an
implicit weight of samples. Their moderate decay ends at a third of the peak; ordinary decays end at a hundredth or less
and lose most of what the order gains.
"""

from __future__ import annotations

from collections.abc import Iterator

from rewarm_api.curves import learning_rate
from rewarm_api.resolve import resolve
from rewarm_api.run import ContinualRun
from rewarm_api.snapshot import Plan, RunPhase

MODERATE = 3.0
"""A rate that falls by no more than this factor over the phase is moderate."""


def ascending_warnings(run: ContinualRun) -> Iterator[str]:
    """One warning for each ascending phase of a valid run whose learning rate falls steeply over it.

    With a budget in epochs, or a branch, only a phase with a learning rate of its own can be judged.
    """
    if not any(phase.order == "Ascending" for phase in run.spec.phases):
        return
    snapshot = resolve(run, uid="")
    for number, phase in enumerate(snapshot.phases):
        ends = _ends(phase, number, snapshot.plan) if phase.order_by else None
        if ends and ends[0] > MODERATE * ends[1]:
            first, last = ends
            fall = f"{first / last:.3g} times" if last else "to nothing"
            yield (
                f"spec.phases[{number}].order: Ascending, but the learning rate falls from {first:g} to {last:g} "
                f"({fall}) over this phase, so the best rows count least (2511.18903); end at {first / MODERATE:.2g} "
                "or more, or keep it constant"
            )


def _ends(phase: RunPhase, number: int, plan: Plan | None) -> tuple[float, float] | None:
    """The highest learning rate of the phase and its last one; None where only the data can tell."""
    rate = phase.learning_rate
    if rate is not None:
        return max(rate.first, rate.last), rate.last
    if plan is None:
        return None
    planned, batch = plan.phases[number], plan.tokens_per_step
    start, end = planned.first_step * batch, (planned.first_step + planned.steps) * batch
    # Segments are monotone: the highest rate stands at one of their ends, or where the phase begins.
    borders = [segment.ends for segment in plan.segments if start < segment.ends <= end]
    highest = max(learning_rate(plan.segments, tokens) for tokens in (start, *borders))
    return highest, learning_rate(plan.segments, end)

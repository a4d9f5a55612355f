"""The manifest's phases as the phase log sees them: what stands at the start, and what begins at a border. Pure.

The log is history: a planned phase enters it at the step boundary where it begins, never before. What a decision
changed on the way (a raised replay ratio, a controller's weights) stays until a phase names it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from rewarm_api.snapshot import Plan, PlannedPhase
from rewarm_trainer.mixture import Mixture, exact
from rewarm_trainer.order import Phase, mixture_of


def opening(plan: Plan, ratio: float, taken: Mapping[str, int] | None = None) -> Phase:
    """The phase at step 0; `ratio` is the run's own replay ratio, `taken` the rows that a trunk had taken before."""
    first = _of(plan.phases[0], ratio, "start") if plan.phases else Phase(0, ratio)
    return replace(first, skipped=dict(taken or {}))


def _of(planned: PlannedPhase, ratio: float, reason: str) -> Phase:
    own = ratio if planned.ratio is None else planned.ratio
    until = planned.first_step + planned.steps if planned.order_by else 0
    return Phase(
        planned.first_step,
        own,
        reason,
        weights=planned.weights,
        name=planned.name,
        order_by=planned.order_by,
        until=until,
        sequence_length=planned.sequence_length,
    )


def planned_log(plan: Plan, ratio: float) -> list[Phase]:
    """The whole log of a run in which nothing unforeseen happens."""
    return [opening(plan, ratio), *(_of(phase, ratio, "planned") for phase in plan.phases[1:])]


def beginning(plan: Plan, log: Sequence[Phase], step: int, ratio: float) -> Phase | None:
    """The planned phase that begins after `step` updates and is not in the log yet, else None."""
    entered = {phase.name for phase in log}
    for before, phase in pairwise(plan.phases):
        if phase.first_step == step and phase.name not in entered:
            return _after(_of(before, ratio, ""), _of(phase, ratio, "planned"), phase, log[-1])
    return None


def _after(former: Phase, own: Phase, planned: PlannedPhase, now: Phase) -> Phase:
    """`own`, with what a decision changed since `former` was planned and `planned` does not name."""
    ratio = now.ratio if planned.ratio is None and now.ratio != former.ratio else own.ratio
    weights = now.weights if planned.weights is None and now.weights != former.weights else own.weights
    return replace(own, ratio=ratio, weights=weights)


class PhasedMixture:
    """How many of the first rows of a plan come from each source, phase by phase."""

    def __init__(
        self, log: Sequence[Phase], corpus: Mapping[str, float], replay: Mapping[str, float], rows_per_step: int
    ) -> None:
        """`corpus`, `replay`: the run's own weights by source."""
        self.corpus, self.replay = dict(corpus), dict(replay)
        self._starts = [phase.first_step * rows_per_step for phase in log]
        self._mixtures: list[Mixture] = [mixture_of(phase, corpus, replay) for phase in log]

    @property
    def sources(self) -> tuple[str, ...]:
        """All names, sorted; those that never get a row included."""
        return tuple(sorted([*self.corpus, *self.replay]))

    def counts(self, rows: int) -> dict[str, int]:
        """Rows by source among the first `rows` rows. They sum to `rows`."""
        totals = dict.fromkeys(self.sources, 0)
        ends = [*self._starts[1:], rows]
        for start, end, mixture in zip(self._starts, ends, self._mixtures, strict=True):
            for name, count in mixture.counts(max(0, min(end, rows) - start)).items():
                totals[name] += count
        return totals


def requested_ratio(plan: Plan, ratio: float) -> float:
    """The replay share that the whole plan asks for."""
    if not plan.phases:
        return ratio
    parts = (phase.steps * exact(ratio if phase.ratio is None else phase.ratio) for phase in plan.phases)
    return float(sum(parts, Fraction(0)) / plan.steps)

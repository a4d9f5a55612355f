"""The one protocol of mixture controllers: (progress, losses per set) -> a decision, or nothing.

    looks in the state --+                    +--> ratio    (replay's share of all rows)
                         +--> controller -----+--> weights  (shares of sources within their group)
    phase log -----------+                    +--> why      (one sentence, for the log and the report)

A controller is a pure function and keeps nothing: all that it knows of the past are the looks and the phase log, which
a checkpoint holds. So a resume between a look and the next one decides what the undisturbed run decided, and every
rank comes to the same decision. Numbers are rounded before they enter the phase log, so that the last bits of a loss
(another number of processes) do not change the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from rewarm_api.snapshot import Plan, Role
from rewarm_trainer.marks import fires
from rewarm_trainer.order import Phase
from rewarm_trainer.statistics import Delta


@dataclass(frozen=True, slots=True)
class SetLook:
    """What one look saw of one set: nats per token, and the paired difference to the baseline (None at tokens 0)."""

    tokens: int
    loss: float
    delta: Delta | None


@dataclass(frozen=True, slots=True)
class SetHistory:
    """All looks of one set, oldest first."""

    role: Role
    looks: Sequence[SetLook]


Losses = Mapping[str, SetHistory]
"""By name of the evaluation set; a set held out of a source has the source's name."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands at a look: `step` updates made, of `plan`.

    `corpus`, `replay`: weights of the sources within their group now. `left`: how many more rows each replay source may
    give before it was repeated `maxRepeats` times. `decisions`: all earlier ones, of any kind. `teacher`: a teacher's
    loss by source, on the `full` set and on the documents of a `look`; empty where the base is the teacher.
    """

    step: int
    plan: Plan
    phases: Sequence[Phase]
    corpus: Mapping[str, float]
    replay: Mapping[str, float]
    left: Mapping[str, int] = field(default_factory=dict)
    decisions: Sequence[Mapping[str, Any]] = ()
    teacher: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.step * self.plan.tokens_per_step

    @property
    def ratio(self) -> float:
        return self.phases[-1].ratio

    @property
    def rows_to_come(self) -> int:
        return (self.plan.steps - self.step) * self.plan.rows_per_step

    @property
    def ratio_since(self) -> int:
        """Tokens at which the ratio last changed; 0 while it never did."""
        phases = self.phases
        changed = [new.first_step for old, new in pairwise(phases) if new.ratio != old.ratio]
        return max(changed, default=0) * self.plan.tokens_per_step


@dataclass(frozen=True)
class Decision:
    """What a controller wants from this step boundary on. None: as before. `what` is a word for programs.

    `weights` are by source, all sources of a group or none of it. `facts`: more numbers for the log.
    """

    what: str
    why: str
    ratio: float | None = None
    weights: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether a phase begins here."""
        return self.ratio is not None or self.weights is not None


class Controller(Protocol):
    """A rule that moves the mixture. Pure: the same arguments always give the same decision."""

    def __call__(self, progress: Progress, losses: Losses) -> Decision | None: ...


WEIGHTS_MOVED = "WeightsMoved"
"""What a rule of `mixture` decides."""

ROWS_OF_ROUNDING = 2
"""A source is within two rows of its share (mixture.py)."""


def highest_ratio(progress: Progress) -> float:
    """The highest replay ratio from here to the plan's end under which no replay source repeats beyond `maxRepeats`."""
    whole, rows = sum(progress.replay.values()), progress.rows_to_come
    if not whole or not rows:
        return 0.0
    limits = [
        max(0, progress.left[name] - ROWS_OF_ROUNDING) * whole / (rows * weight)
        for name, weight in progress.replay.items()
        if weight
    ]
    return min([1.0, *limits])


def significant(value: float, digits: int = 3) -> float:
    """`value` to so many significant digits: what enters the phase log."""
    return float(f"{value:.{digits}g}")


def significant_below(value: float, digits: int = 3) -> float:
    """The largest number of so many significant digits that is not above `value`."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    rounded = significant(math.floor(value / unit + 1e-9) * unit, digits)
    return rounded if rounded <= value else significant(rounded - unit, digits)


def fires_at(plan: Plan, every: int, tokens: int) -> bool:
    """Whether a mark of `every` tokens fires after the step that ends at `tokens`; never at 0."""
    return tokens > 0 and fires(every, tokens - plan.tokens_per_step, tokens)


def at_mark(progress: Progress, every: int) -> bool:
    """Whether weights are to be updated here; not at the plan's end, where no row follows."""
    return progress.rows_to_come > 0 and fires_at(progress.plan, every, progress.tokens)


def rounded_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares as they enter the phase log. A small one stays above 0, or a rule that multiplies could not raise it."""
    return {name: max(round(share, 6), 1e-6) if share > 0 else 0.0 for name, share in shares.items()}


def bounded_shares(shares: Mapping[str, float], progress: Progress) -> dict[str, float]:
    """Shares of the replay group under which no source repeats beyond `maxRepeats` at the present ratio.

    What one source cannot give goes to the others in proportion. When all together cannot give what the ratio asks for
    (then the ratio is bounded first, see `highest_ratio`), the rows left are the shares.
    """
    rows = progress.rows_to_come * progress.ratio
    if rows <= 0:
        return dict(shares)
    limits = {name: max(0, progress.left[name] - ROWS_OF_ROUNDING) / rows for name in shares}
    if sum(limits.values()) <= 1:
        whole = sum(limits.values())
        return {name: limit / whole for name, limit in limits.items()} if whole else dict(shares)
    full: set[str] = set()
    while True:
        free = 1.0 - sum(limits[name] for name in full)
        open_weight = sum(share for name, share in shares.items() if name not in full)
        given = {
            name: limits[name] if name in full else free * (share / open_weight if open_weight else 0.0)
            for name, share in shares.items()
        }
        over = {name for name in shares if name not in full and given[name] > limits[name]}
        if not over:
            return given
        full |= over

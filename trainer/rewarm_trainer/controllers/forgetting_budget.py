"""`replay.adaptive`: feedback on the replay ratio that keeps forgetting within a budget. The law is ours, no paper's.

    forgetting ^
               |      x   above the budget: ratio x (forgetting / aim), at most doubled
        budget +---------------------------------------------
               |   the band: nothing moves            aim = 3/4 of the budget
    budget / 2 +---------------------------------------------
               |      x   below the band: ratio x (forgetting / aim), at most halved
               +-----------------------------------------------> tokens

Why it is multiplicative: forgetting falls about as a power of the ratio (Ibrahim et al. 2024, 2403.08763, table 2: each
doubling of the replay removes a like share of what is left), so in logarithms the plant is a straight line, and the law
is integral control on it with gain 1: for forgetting ~ ratio^-p the distance to the aim shrinks by 1 - p a decision.

Four things keep it calm:
- An interval decides, not a mean: above the budget only when a lower bound is, below the band only when every upper
  bound is. Noise of the looks' documents moves nothing.
- It waits: no decision within the stability gap (warm-up and a tenth of the plan), nor within a tenth of the plan of
  the last change of the ratio; it takes two looks after that (`alarm.settled`).
- It sees what is coming: when the last two looks say that forgetting will be back in the band within another tenth of
  the plan, it holds.
- Bounds: minimum, maximum, and the highest ratio that `maxRepeats` allows to the plan's end. A decision that a bound
  keeps from being taken is said once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rewarm_api.snapshot import Role
from rewarm_trainer.alarm import settled
from rewarm_trainer.controllers.protocol import (
    Decision,
    Losses,
    Progress,
    SetLook,
    highest_ratio,
    significant,
    significant_below,
)
from rewarm_trainer.statistics import MINIMUM_DOCUMENTS, Delta

REASON = "forgettingBudget"
FLOOR = 0.5
"""Lower edge of the band, as a share of the budget."""
AIM = 0.75
LARGEST_STEP = 2.0
SMALLEST_RATIO = 0.01
"""From a ratio below this a raise starts here: nothing times two is nothing."""
SMALLEST_MOVE = 0.02
"""A change of the ratio by less than this share of itself is no change."""


@dataclass(frozen=True, slots=True)
class ForgettingBudget:
    """Moves the replay ratio within `minimum` and `maximum` (shares below 1). `budget`: nats per token."""

    budget: float
    minimum: float
    maximum: float

    def __call__(self, progress: Progress, losses: Losses) -> Decision | None:
        """ReplayRaised, ReplayLowered, or ReplayHeld (once, when a bound or too few documents stand in the way)."""
        if progress.tokens >= progress.plan.tokens:
            return None
        from_here = settled(progress.plan, progress.ratio_since, progress.tokens)
        pairs = {
            name: (history.looks[-2], history.looks[-1])
            for name, history in losses.items()
            if history.role is Role.RETAINED and len(history.looks) >= 2 and history.looks[-2].tokens >= from_here
        }
        if not pairs:
            return None
        known = {name: pair for name, pair in pairs.items() if all(map(_is_known, pair))}
        if len(known) < len(pairs):
            return self._blind(progress, pairs.keys() - known.keys())
        return self._judged(progress, known)

    def _judged(self, progress: Progress, pairs: Mapping[str, tuple[SetLook, SetLook]]) -> Decision | None:
        ahead = -(-progress.plan.tokens // 10)
        now = {name: _delta(pair[1]) for name, pair in pairs.items()}
        drift = {name: _slope(*pair) * ahead for name, pair in pairs.items()}
        floor = FLOOR * self.budget
        above = [name for name, delta in now.items() if min(delta.low, delta.low + drift[name]) > self.budget]
        below = [name for name, delta in now.items() if max(delta.high, delta.high + drift[name]) < floor]
        if not above and len(below) < len(now):
            return None
        worst = max(above or below, key=lambda name: now[name].mean)
        found = f"{worst} {now[worst].mean:+.4f} (95 % {now[worst].low:+.4f} to {now[worst].high:+.4f})"
        factor = now[worst].mean / (AIM * self.budget)
        factor = min(max(factor, 1 / LARGEST_STEP), LARGEST_STEP)
        if above:
            return self._raised(progress, factor, f"{found} is beyond the budget {self.budget:g} and not coming back")
        return self._lowered(progress, factor, f"{found} and all others are below half of the budget {self.budget:g}")

    def _raised(self, progress: Progress, factor: float, why: str) -> Decision | None:
        ratio, limit = progress.ratio, self._highest(progress)
        asked = max(ratio, SMALLEST_RATIO) * factor
        to = significant(asked) if asked < limit else limit
        if to > ratio * (1 + SMALLEST_MOVE):
            return self._moved("ReplayRaised", progress, to, why)
        bound = f"adaptive.maximum {self.maximum:g}" if limit >= self.maximum else f"{limit:g} by maxRepeats"
        return self._held(progress, f"{why}; the ratio {ratio:g} is at its highest ({bound})")

    def _lowered(self, progress: Progress, factor: float, why: str) -> Decision | None:
        ratio = progress.ratio
        to = min(max(significant(ratio * factor), self.minimum), self._highest(progress))
        # That the ratio is as low as it may be is no trouble that a reader would have to know of.
        return self._moved("ReplayLowered", progress, to, why) if to < ratio * (1 - SMALLEST_MOVE) else None

    def _highest(self, progress: Progress) -> float:
        possible = highest_ratio(progress)
        return self.maximum if possible >= self.maximum else significant_below(possible)

    def _moved(self, what: str, progress: Progress, to: float, why: str) -> Decision:
        return Decision(what, why, ratio=to, facts={"from": progress.ratio, "to": to})

    def _blind(self, progress: Progress, sets: set[str]) -> Decision | None:
        return self._held(
            progress,
            f"looks score too few documents of {', '.join(sorted(sets))}: at least {MINIMUM_DOCUMENTS} are needed to "
            "steer by; raise evaluation.lookTokens or evaluation.heldOut",
        )

    def _held(self, progress: Progress, why: str) -> Decision | None:
        since = progress.ratio_since
        said = any(past["what"] == "ReplayHeld" and past["tokens"] > since for past in progress.decisions)
        return None if said else Decision("ReplayHeld", why)


def _delta(look: SetLook) -> Delta:
    assert look.delta is not None
    return look.delta


def _is_known(look: SetLook) -> bool:
    delta = look.delta
    if delta is None or delta.documents < MINIMUM_DOCUMENTS:
        return False
    return all(map(math.isfinite, (delta.mean, delta.low, delta.high)))


def _slope(older: SetLook, newer: SetLook) -> float:
    """Nats per token, per token trained."""
    return (_delta(newer).mean - _delta(older).mean) / max(1, newer.tokens - older.tokens)

"""Decides what was forgotten, gained, and lost for a while. Never measures: it reads deltas that were measured.

A delta is candidate minus baseline in nats per token, so forgetting is a positive delta on a Retained set and gain a
negative one on a New set.

    delta  ^        peak_tokens
           |       .-*-.            depth = the peak's delta
           |     .'     '-.
         0 +----'----------'*-----------> tokens
           |      recovered_tokens: first look after the peak whose lower bound is at or below 0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rewarm_api.snapshot import Role
from rewarm_trainer.statistics import Delta


@dataclass(frozen=True, slots=True)
class Look:
    """One evaluation of one set during training: tokens trained so far, difference to the baseline."""

    tokens: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class StabilityGap:
    """How far a set got worse on the way, and whether it came back (Guo et al. 2024, 2406.14833).

    `depth` in nats per token, with the paired interval at the peak. A maximum over noisy looks is biased upward: read
    depth beside its interval. Without a peak depth is 0 and the rest None; `recovered_tokens` is None when it never
    came back.
    """

    depth: float
    low: float | None = None
    high: float | None = None
    peak_tokens: int | None = None
    recovered_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Largest and unweighted mean delta over the Retained sets, not clamped; None without such sets."""

    max: float | None
    mean: float | None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


class Summary(NamedTuple):
    """`forgetting` over the Retained sets, and `gain` = mean of -delta over the New sets (None without such sets)."""

    forgetting: Forgetting
    gain: float | None


def stability_gap(looks: Sequence[Look]) -> StabilityGap:
    """The gap of one set over its looks, in any order; looks without a finite delta are no peak."""
    ordered = sorted(looks, key=lambda look: look.tokens)
    worse = [look for look in ordered if look.delta.mean > 0 and math.isfinite(look.delta.mean)]
    if not worse:
        return StabilityGap(0.0)
    peak = max(worse, key=lambda look: look.delta.mean)
    recovered = (look.tokens for look in ordered if look.tokens > peak.tokens and look.delta.low <= 0)
    return StabilityGap(
        peak.delta.mean, _finite(peak.delta.low), _finite(peak.delta.high), peak.tokens, next(recovered, None)
    )


def summary(sets: Mapping[str, tuple[Role, Delta]]) -> Summary:
    """Forgetting and gain over the sets of a run. A set whose delta is unknown makes its figures unknown: None."""
    retained = [delta.mean for role, delta in sets.values() if role is Role.RETAINED]
    gains = [-delta.mean for role, delta in sets.values() if role is Role.NEW]
    known = all(math.isfinite(mean) for mean in retained)
    return Summary(Forgetting(max(retained) if retained and known else None, _mean(retained)), _mean(gains))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    # 0.0 is added because a gain of -0.0 reads like a loss.
    return _finite(math.fsum(found) / len(found) + 0.0) if found else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

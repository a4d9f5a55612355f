"""The critical mixture ratio of a study whose runs keep a constant learning rate: equations 6, 7 and 8 of 2407.17467.

For each ratio the increments of both losses are fitted in tokens; from T0 on training at that ratio no longer costs the
old text. A ratio is critical for the budget that equals its T0, so the pairs (T0, R) are points of equation 8. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewarm_trainer.laws.cmr import (
    PowerLaw,
    TwoPowers,
    critical_tokens,
    fit_critical_law,
    fit_power_law,
    fit_two_powers,
)

WEIGHT = 1000.0
"""Lambda of the paper's objective, which uses 100 to 7000; the turn of the general loss is lambda without bound."""
EPSILON = 0.05
"""How much the general loss may end above the base's, in nats per token."""
_LEAST_PLACES = 8


@dataclass(frozen=True)
class Curve:
    """Increments over the base's losses along one run, in nats per token: tokens, new and general, [n] each."""

    share: float
    tokens: Sequence[float]
    new: Sequence[float]
    general: Sequence[float]


@dataclass(frozen=True)
class Turning:
    """One ratio: both fitted curves (tokens in `unit`) and T0 in tokens, None when it lies beyond the run's end."""

    share: float
    new: PowerLaw
    general: TwoPowers
    critical_tokens: float | None
    turn_tokens: float | None
    final_general: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "new": vars(self.new), "general": vars(self.general)}


@dataclass(frozen=True)
class Critical:
    """The critical share of new text at the budget of the runs; `law` is equation 8 where three pairs allow it."""

    share: float | None
    unit: float
    law: PowerLaw | None
    turnings: tuple[Turning, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "epsilon": EPSILON,
            "lambda": WEIGHT,
            "tokens_unit": self.unit,
            "law": None if self.law is None else vars(self.law),
            "ratios": [turning.to_json() for turning in self.turnings],
        }


def find_critical(curves: Sequence[Curve]) -> Critical | None:
    """None when a curve has fewer than eight places: equation 6, with five parameters, would only thread them. Curves
    of one budget, one per ratio."""
    if not curves or any(len(set(curve.tokens)) < _LEAST_PLACES for curve in curves):
        return None
    end = max(curve.tokens[-1] for curve in curves)
    unit = end / 100.0
    turnings = tuple(_turning(curve, unit) for curve in sorted(curves, key=lambda curve: curve.share))
    pairs = {turning.share: turning.critical_tokens for turning in turnings if turning.critical_tokens is not None}
    # A T0 at the very start says only that the ratio never hurt: it bounds the curve and is no point of it.
    starts = {curve.share: min(curve.tokens) for curve in curves}
    inner = {share: tokens for share, tokens in pairs.items() if tokens > starts[share]}
    law = None
    if len(inner) >= 3:
        law = fit_critical_law([tokens / unit for tokens in inner.values()], list(inner))
    allowed = {turning.share for turning in turnings if turning.final_general <= EPSILON} & set(pairs)
    return Critical(_share(pairs, allowed, law, end / unit, turnings), unit, law, turnings)


def _turning(curve: Curve, unit: float) -> Turning:
    tokens = [place / unit for place in curve.tokens]
    new, general = fit_power_law(tokens, curve.new), fit_two_powers(tokens, curve.general)
    span = (min(tokens), max(tokens))

    def in_tokens(weight: float | None) -> float | None:
        found = critical_tokens(new, general, weight, span)
        return None if found is None else found * unit

    return Turning(curve.share, new, general, in_tokens(WEIGHT), in_tokens(None), float(curve.general[-1]))


def _share(
    pairs: Mapping[float, float],
    allowed: set[float],
    law: PowerLaw | None,
    end: float,
    turnings: Sequence[Turning],
) -> float | None:
    """The largest share that is feasible by the end: by equation 8 between the last feasible and the next measured
    ratio, else the last feasible one that was measured."""
    if not allowed:
        return None
    last = max(allowed)
    beyond = [turning.share for turning in turnings if turning.share > last]
    if law is None or not beyond:
        return last
    return float(min(max(law(end), last), beyond[0]))

"""The laws of one evaluation set: in the share of new text at each measured (model, budget), and over all. Pure.

Where a budget was measured at three ratios or more, equation 5.1 of the CMR law speaks for it; in between the D-CPT law
does, if two budgets or more were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from rewarm_api.snapshot import Role
from rewarm_trainer.laws.cmr import PowerLaw, fit_power_law, refit_power_laws
from rewarm_trainer.laws.dcpt import DcptLaw, Points, fit_dcpt, predict, refit_dcpt
from rewarm_trainer.laws.fitting import Quality, disturbed, quality, spread

RATIO_RESAMPLES = 400
SURFACE_RESAMPLES = 200

Law = TypeVar("Law")
Place = tuple[int, int]
"""(parameters of the model, tokens trained)."""


@dataclass(frozen=True)
class Measurement:
    """A loss that a run measured on this set, in nats per token. `share` is that of new text in its training."""

    run: str
    parameters: int
    tokens: int
    share: float
    loss: float
    final: bool = True
    """Whether the whole set was scored at the end of a run; else a look on the way of a constant schedule."""


@dataclass(frozen=True)
class Fitted(Generic[Law]):
    """A law, its resampled siblings (for intervals), and how far it is from what it saw and from what it did not."""

    law: Law
    siblings: tuple[Law, ...]
    spread: tuple[float, ...]
    """Residuals of the points, inflated: how far one more run may lie from the law. Empty without a spare point."""
    fit: Quality
    held_out: Quality | None
    held_out_by: str | None
    """`HeldOut`: runs kept out of the fit; `LeaveOneOut`: each inner ratio in turn; None: too few points."""

    def errors(self) -> dict[str, Any]:
        held = None if self.held_out is None else {"by": self.held_out_by, **self.held_out.to_json()}
        return {"fit": self.fit.to_json(), "hold_out": held}


@dataclass(frozen=True)
class Curves:
    """Loss as a function of the share of new text at one place: first by the law itself, then by each sibling."""

    law: str
    losses: list[Callable[[float], float]]
    spread: tuple[float, ...]


@dataclass(frozen=True)
class SetLaws:
    """What is known of one set. `baseline`: loss of the untouched model, by its parameters."""

    name: str
    role: Role
    baseline: Mapping[int, float]
    by_place: Mapping[Place, Fitted[PowerLaw]]
    surface: Fitted[DcptLaw] | None

    def own_share(self, share: float) -> float:
        """The share of the text that this set is of: what r stands for in the D-CPT law."""
        return share if self.role is Role.NEW else 1.0 - share

    def curves(self, parameters: int, tokens: int) -> Curves | None:
        """The law that speaks for a place; None when none reaches it."""
        fitted = self.by_place.get((parameters, tokens))
        if fitted is not None:
            return Curves("CMR", [fitted.law, *fitted.siblings], fitted.spread)
        if self.surface is None:
            return None
        laws = (self.surface.law, *self.surface.siblings)
        return Curves("D-CPT", [self._cut(law, parameters, tokens) for law in laws], self.surface.spread)

    def _cut(self, law: DcptLaw, parameters: int, tokens: int) -> Callable[[float], float]:
        return lambda share: law(parameters, tokens, self.own_share(share))

    def to_json(self) -> dict[str, Any]:
        return {
            "role": str(self.role),
            "baseline": [{"parameters": size, "loss": loss} for size, loss in sorted(self.baseline.items())],
            "cmr": [
                {"parameters": place[0], "tokens": place[1], **vars(fitted.law), **fitted.errors()}
                for place, fitted in sorted(self.by_place.items())
            ],
            "dcpt": None if self.surface is None else {**self.surface.law.to_json(), **self.surface.errors()},
        }


def fit_set(
    name: str,
    role: Role,
    baseline: Mapping[int, float],
    measured: Sequence[Measurement],
    held_out: Sequence[Measurement],
    *,
    surface: bool = True,
) -> SetLaws:
    """All laws that the measurements carry. `held_out` ones are never fitted, only predicted.

    Without `surface` no D-CPT law: it takes most of the time, and measured budgets do without it.
    """
    by_place = {}
    for place in sorted({(item.parameters, item.tokens) for item in measured if item.final}):
        own = [item for item in measured if item.final and (item.parameters, item.tokens) == place]
        kept = [item for item in held_out if item.final and (item.parameters, item.tokens) == place]
        if len({item.share for item in own}) >= 3:
            by_place[place] = _ratio_law(own, kept)
    laws = SetLaws(name, role, baseline, by_place, None)
    if not surface or len({item.tokens for item in measured}) < 2 or len({item.share for item in measured}) < 3:
        return laws
    return SetLaws(name, role, baseline, by_place, _surface(laws, measured, held_out))


def _ratio_law(own: Sequence[Measurement], kept: Sequence[Measurement]) -> Fitted[PowerLaw]:
    shares, losses = [item.share for item in own], np.array([item.loss for item in own])
    law = fit_power_law(shares, losses.tolist())
    predicted = np.array([law(share) for share in shares])
    rows = disturbed(predicted, losses, [item.run for item in own], 3, count=RATIO_RESAMPLES)
    siblings = tuple(refit_power_laws(shares, rows)) if len(rows) else ()

    def without(rest: Sequence[Measurement]) -> Callable[[Measurement], float]:
        refitted = fit_power_law([item.share for item in rest], [item.loss for item in rest])
        return lambda item: refitted(item.share)

    held, by = _hold_out(own, kept, lambda item: law(item.share), without, least=3)
    return Fitted(law, siblings, _spread(predicted, own, 3), quality(predicted, losses), held, by)


def _surface(laws: SetLaws, measured: Sequence[Measurement], held_out: Sequence[Measurement]) -> Fitted[DcptLaw]:
    points = _points(laws, measured)
    law = fit_dcpt(points)
    predicted = predict(law, points)
    rows = disturbed(predicted, points.losses, points.runs, points.free, count=SURFACE_RESAMPLES)
    siblings = tuple(refit_dcpt(law, points, rows)) if len(rows) else ()

    def without(rest: Sequence[Measurement]) -> Callable[[Measurement], float]:
        (refitted,) = refit_dcpt(law, _points(laws, rest), np.array([[item.loss for item in rest]]))
        return lambda item: refitted(item.parameters, item.tokens, laws.own_share(item.share))

    def speaks(item: Measurement) -> float:
        return law(item.parameters, item.tokens, laws.own_share(item.share))

    held, by = _hold_out(measured, held_out, speaks, without, least=3)
    away = _spread(predicted, measured, points.free)
    return Fitted(law, siblings, away, quality(predicted, points.losses), held, by)


def _spread(predicted: np.ndarray, measured: Sequence[Measurement], parameters: int) -> tuple[float, ...]:
    if len(measured) <= parameters:
        return ()
    losses, runs = np.array([item.loss for item in measured]), {item.run for item in measured}
    return tuple(spread(predicted, losses, parameters, len(runs)).tolist())


def _points(laws: SetLaws, measured: Sequence[Measurement]) -> Points:
    return Points(
        parameters=np.array([item.parameters for item in measured], float),
        tokens=np.array([item.tokens for item in measured], float),
        shares=np.array([laws.own_share(item.share) for item in measured]),
        losses=np.array([item.loss for item in measured]),
        runs=[item.run for item in measured],
    )


def _hold_out(
    measured: Sequence[Measurement],
    held_out: Sequence[Measurement],
    speaks: Callable[[Measurement], float],
    without: Callable[[Sequence[Measurement]], Callable[[Measurement], float]],
    *,
    least: int,
) -> tuple[Quality | None, str | None]:
    """Errors on runs that were kept out; without any, on each inner ratio left out in turn (the outer ones would be
    extrapolated)."""
    if held_out:
        predicted = np.array([speaks(item) for item in held_out])
        return quality(predicted, np.array([item.loss for item in held_out])), "HeldOut"
    shares = sorted({item.share for item in measured})
    if len(shares) <= least:
        return None, None
    guesses, truths = [], []
    for share in shares[1:-1]:
        refitted = without([item for item in measured if item.share != share])
        left_out = [item for item in measured if item.share == share]
        guesses += [refitted(item) for item in left_out]
        truths += [item.loss for item in left_out]
    return quality(np.array(guesses), np.array(truths)), "LeaveOneOut"

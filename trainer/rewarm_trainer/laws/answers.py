"""What a study is asked: the largest share of new text under a tolerance, the best share for a limited corpus, and the
loss at any ratio and budget. Pure. Usages 1 and 2 of the D-CPT law (2406.01375), answered by the law that speaks there.

Every answer carries an interval (laws/fitting.py) and refuses places outside what was measured, unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import brentq

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.snapshot import Role
from rewarm_trainer.laws.fitting import interval
from rewarm_trainer.laws.hull import ExtrapolationError, Hull
from rewarm_trainer.laws.sets import Curves, SetLaws

_GRID = 200
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Prediction:
    """A loss in nats per token. The interval is for one more run: the law's own uncertainty and the runs' scatter."""

    loss: float
    low: float | None
    high: float | None
    law: str
    """`CMR` (equation 5.1, at a measured budget) or `D-CPT` (between budgets)."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ShareAnswer:
    """A share of new text. `loss` is what the asking was about; `at_border`: the true answer may lie beyond what was
    measured, so read the share as a bound."""

    share: float
    low: float | None
    high: float | None
    law: str
    tokens: int
    parameters: int
    decided_by: str
    loss: float
    at_border: bool

    @property
    def replay_ratio(self) -> float:
        """As a manifest writes it: rounded to four decimals, never to less replay than the law asks for."""
        return max(0, min(9999, math.ceil((1.0 - self.share) * 1e4 - 1e-6))) / 1e4

    def covers(self, shares: tuple[float, float]) -> bool:
        """Whether the interval holds nine tenths of these shares, so that the runs hardly say where it lies."""
        if self.low is None or self.high is None:
            return False
        return self.high - self.low >= 0.9 * (shares[1] - shares[0])

    def to_json(self) -> dict[str, Any]:
        return {"replay_ratio": self.replay_ratio, **vars(self)}


@dataclass(frozen=True)
class Study:
    """All laws of a study, and the hull that they were fitted on."""

    sets: Mapping[str, SetLaws]
    hull: Hull

    def of_role(self, role: Role) -> list[SetLaws]:
        return [laws for laws in self.sets.values() if laws.role is role]


def predicted_loss(
    study: Study, name: str, share: float, tokens: int, parameters: int, *, extrapolate: bool = False
) -> Prediction:
    """The loss on a set. Raises ExtrapolationError (64) outside the hull, unless told otherwise."""
    study.hull.check(share, tokens, parameters, extrapolate=extrapolate)
    curves = _curves(study.sets[name], tokens, parameters)
    values = [curve(share) for curve in curves.losses]
    scattered = [value + away for value in values[1:] for away in curves.spread]
    low, high = interval(scattered) or (None, None)
    return Prediction(values[0], low, high, curves.law)


def largest_share(
    study: Study, tolerance: float, tokens: int, parameters: int, *, extrapolate: bool = False
) -> ShareAnswer | None:
    """Usage 1: the largest share of new text with L <= (1 + tolerance) L_base on every Retained set; None if no
    measured share keeps it. Raises ExtrapolationError (64) outside the hull, ManifestError without a Retained set."""
    study.hull.check(study.hull.shares[0], tokens, parameters, extrapolate=extrapolate)
    low, high = (_LEAST_SHARE, 1.0) if extrapolate else study.hull.shares
    found = None
    for laws in _role(study, Role.RETAINED):
        limit = (1.0 + tolerance) * _baseline(laws, parameters)
        curves = _curves(laws, tokens, parameters)
        shares = [_last_within(curve, limit, low, high) for curve in curves.losses]
        share = shares[0]
        if share is None:
            return None
        # A sibling that keeps the tolerance nowhere says "at or below the least share".
        span = interval([low if other is None else other for other in shares[1:]]) or (None, None)
        answer = ShareAnswer(
            share=share,
            low=span[0],
            high=span[1],
            law=curves.law,
            tokens=tokens,
            parameters=parameters,
            decided_by=laws.name,
            loss=curves.losses[0](share),
            at_border=share in (low, high),
        )
        if found is None or answer.share < found.share:
            found = answer
    return found


def best_for_corpus(
    study: Study, corpus_tokens: float, parameters: int, *, extrapolate: bool = False
) -> ShareAnswer | None:
    """Usage 2: the corpus holds D_d tokens, each trained on once; D = D_d / r. The share with the least loss, as the
    mean over the New sets. None when no measured share has a measured D; ManifestError without laws in D."""
    sets = _role(study, Role.NEW)
    if any(laws.surface is None for laws in sets):
        found, expected = "one budget", "two budgets or more: the choice is between more tokens and more new text"
        raise ManifestError(Problem("spec.grid.budgets", found, expected, "add a budget to the study"))
    (least, most), (low, high) = study.hull.tokens, study.hull.shares
    if not extrapolate:
        low, high = max(low, corpus_tokens / most), min(high, corpus_tokens / least)
        study.hull.check(study.hull.shares[0], least, parameters)
    if low > high:
        return None
    grid = np.linspace(low, high, _GRID)
    members = [[laws.surface.law, *laws.surface.siblings] for laws in sets if laws.surface is not None]
    shares, losses = [], []
    for chosen in zip(*members, strict=False):
        values = np.mean(
            [
                [law(parameters, corpus_tokens / share, laws.own_share(share)) for share in grid]
                for laws, law in zip(sets, chosen, strict=True)
            ],
            axis=0,
        )
        shares.append(float(grid[int(np.argmin(values))]))
        losses.append(float(values.min()))
    span = interval(shares[1:]) or (None, None)
    best = shares[0]
    return ShareAnswer(
        share=best,
        low=span[0],
        high=span[1],
        law="D-CPT",
        tokens=round(corpus_tokens / best),
        parameters=parameters,
        decided_by=", ".join(laws.name for laws in sets),
        loss=losses[0],
        at_border=best in (grid[0], grid[-1]),
    )


def crossing(shares: Sequence[float], losses: Sequence[float], limit: float) -> float | None:
    """Where straight lines between measured points, in order of share, first rise above `limit`; None if they never
    do. A check of the law's answer that needs no law."""
    points = sorted(zip(shares, losses, strict=True))
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 <= limit < y1:
            return x0 + (x1 - x0) * (limit - y0) / (y1 - y0)
    return None


def _role(study: Study, role: Role) -> list[SetLaws]:
    found = study.of_role(role)
    if not found:
        raise ManifestError(
            Problem("spec.template.spec.evaluation.sets", f"no set of role {role}", "one or more", f"add a {role} set")
        )
    return found


def _baseline(laws: SetLaws, parameters: int) -> float:
    if parameters not in laws.baseline:
        known = ", ".join(map(str, sorted(laws.baseline)))
        raise ExtrapolationError(
            Problem("parameters", str(parameters), f"a measured size ({known})", "the base's own loss is known there")
        )
    return laws.baseline[parameters]


def _curves(laws: SetLaws, tokens: int, parameters: int) -> Curves:
    found = laws.curves(parameters, tokens)
    if found is None:
        known = ", ".join(str(place[1]) for place in sorted(laws.by_place) if place[0] == parameters) or "none"
        raise ExtrapolationError(
            Problem("tokens", str(tokens), f"a measured budget ({known}): one budget tells nothing of others",
                    "ask for a measured budget, or add one to grid.budgets")
        )  # fmt: skip
    return found


def _last_within(curve: Callable[[float], float], limit: float, low: float, high: float) -> float | None:
    """The largest share in [low, high] at which the curve is at most `limit`; None if it never is."""
    grid = np.linspace(low, high, _GRID)
    within = [index for index, share in enumerate(grid) if curve(float(share)) <= limit]
    if not within:
        return None
    last = within[-1]
    if last == len(grid) - 1:
        return high
    return float(brentq(lambda share: curve(share) - limit, grid[last], grid[last + 1]))

"""The CMR scaling law: Gu et al. 2024, 2407.17467 (read in full; its constants of Table 5 second-hand [S2]). Pure.

R is the share of new text in training, in (0, 1]. The paper fits by mean squared error and names no optimiser; here
the exponents are searched on a grid, with the linear coefficients in closed form, and then polished together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from rewarm_trainer.laws.fitting import best_of

EXPONENTS = np.linspace(-6.0, 6.0, 241)
"""Searched exponents; 0 stands for the logarithm, to which (x^s - 1) / s tends."""

_SMALLEST = 1e-6


@dataclass(frozen=True)
class PowerLaw:
    """alpha x^s + beta. Equation 5.1 (x the share of new text), the new domain's part of 6 (x tokens), and 8."""

    alpha: float
    s: float
    beta: float

    def __call__(self, x: float) -> float:
        return float(self.alpha * x**self.s + self.beta)

    def slope(self, x: float) -> float:
        """The derivative at x."""
        return float(self.alpha * self.s * x ** (self.s - 1.0))

    def inverse(self, y: float) -> float:
        """The x at which the law has the value y. ValueError where it never has."""
        base = (y - self.beta) / self.alpha
        if base <= 0:
            raise ValueError(f"a power law of {self} never has the value {y:g}")
        return float(base ** (1.0 / self.s))


PUBLISHED = {
    "460M": PowerLaw(0.22524761, 0.26944345, -0.48139982),
    "940M": PowerLaw(0.7520627, 0.13720245, -1.06581937),
    "1.6B": PowerLaw(-2.36384831, -0.15125569, 1.59223649),
    "3.1B": PowerLaw(-2.5368197, -0.42071423, 0.84375368),
}
"""Equation 8, `R_CMR = a4 T^s4 + b3`, with the constants of Table 5; T in units of 0.2B tokens (T = 100 is 20B)."""


@dataclass(frozen=True)
class TwoPowers:
    """a2 x^s2 + a3 x^s3 + b2: the general loss's increment in tokens (equation 6), which may rise and then fall."""

    a2: float
    s2: float
    a3: float
    s3: float
    b2: float

    def __call__(self, x: float) -> float:
        return float(self.a2 * x**self.s2 + self.a3 * x**self.s3 + self.b2)

    def slope(self, x: float) -> float:
        return float(self.a2 * self.s2 * x ** (self.s2 - 1.0) + self.a3 * self.s3 * x ** (self.s3 - 1.0))

    def turn(self) -> float | None:
        """Where it is highest or lowest: T0 of equation 7 for lambda without bound; None where it never turns.

        T0 = (-a3 s3 / (a2 s2))^(1 / (s2 - s3)), derived from equation 7 [D].
        """
        base = -self.a3 * self.s3 / (self.a2 * self.s2) if self.a2 * self.s2 else 0.0
        if base <= 0 or self.s2 == self.s3:
            return None
        return float(base ** (1.0 / (self.s2 - self.s3)))


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw:
    """The law with the least squares through points (x > 0, y). Three different x at least, else ValueError."""
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    if len(set(xs)) < 3:
        raise ValueError(f"found {len(set(xs))} different places, expected 3 or more: the law has three parameters")
    scores = [float(np.sum((_linear(_boxed(x, s), y)[2] - y) ** 2)) for s in EXPONENTS]
    starts = []
    for place in np.argsort(scores)[:3]:
        slope, level, _ = _linear(_boxed(x, float(EXPONENTS[place])), y)
        starts.append(np.array([slope, EXPONENTS[place], level]))
    limits = np.array([np.inf, EXPONENTS[-1], np.inf])
    slope, s, level = best_of(
        lambda p: p[0] * _boxed(x, p[1]) + p[2] - y, starts, (-limits, limits), delta=None, evaluations=400
    )
    return _unboxed(float(slope), float(s), float(level))


def refit_power_laws(xs: Sequence[float], rows: np.ndarray) -> list[PowerLaw]:
    """The law of each row of resampled measurements [count, n], by the grid alone: fast enough for a bootstrap."""
    x = np.asarray(xs, float)
    best = np.full(len(rows), np.inf)
    found = np.zeros((len(rows), 3))
    for s in EXPONENTS:
        design = np.column_stack([_boxed(x, s), np.ones_like(x)])
        solution, *_ = np.linalg.lstsq(design, rows.T, rcond=None)
        score = np.sum((design @ solution - rows.T) ** 2, axis=0)
        better = score < best
        best = np.where(better, score, best)
        found[better] = np.column_stack([solution[0], np.full(len(rows), s), solution[1]])[better]
    return [_unboxed(slope, s, level) for slope, s, level in found]


def _boxed(x: np.ndarray, s: float) -> np.ndarray:
    """(x^s - 1) / s: smooth through s = 0, where alpha and beta of the law itself run off to infinity."""
    result: np.ndarray = np.log(x) if abs(s) < _SMALLEST else np.expm1(s * np.log(x)) / s
    return result


def _unboxed(slope: float, s: float, level: float) -> PowerLaw:
    s = math.copysign(_SMALLEST, s) if abs(s) < _SMALLEST else s
    return PowerLaw(slope / s, s, level - slope / s)


def _linear(column: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    design = np.column_stack([column, np.ones_like(column)])
    (slope, level), *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(slope), float(level), design @ np.array([slope, level])


def fit_two_powers(xs: Sequence[float], ys: Sequence[float]) -> TwoPowers:
    """Equation 6 for the general loss by least squares. Five different x at least, else ValueError."""
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    if len(set(xs)) < 5:
        raise ValueError(f"found {len(set(xs))} different places, expected 5 or more: the law has five parameters")
    grid = np.linspace(-2.0, 3.0, 26)
    scored = []
    for first, s2 in enumerate(grid):
        for s3 in grid[first + 2 :]:
            design = np.column_stack([_boxed(x, s2), _boxed(x, s3), np.ones_like(x)])
            solution, *_ = np.linalg.lstsq(design, y, rcond=None)
            scored.append((float(np.sum((design @ solution - y) ** 2)), s2, s3, *solution))
    starts = [np.array([row[3], row[1], row[4], row[2], row[5]]) for row in sorted(scored)[:6]]
    limits = np.array([np.inf, 4.0, np.inf, 4.0, np.inf])
    u2, s2, u3, s3, level = best_of(
        lambda p: p[0] * _boxed(x, p[1]) + p[2] * _boxed(x, p[3]) + p[4] - y, starts, (-limits, limits), delta=None
    )
    first_law, second_law = _unboxed(float(u2), float(s2), 0.0), _unboxed(float(u3), float(s3), 0.0)
    level = float(level) + first_law.beta + second_law.beta
    return TwoPowers(first_law.alpha, first_law.s, second_law.alpha, second_law.s, level)


def critical_tokens(new: PowerLaw, general: TwoPowers, weight: float | None, span: tuple[float, float]) -> float | None:
    """T0 of equation 7: from here on training helps both, weighted: the general loss falls, or rises slower than
    the new loss falls.

    `weight` is the paper's lambda (100 to 7000 in practice); None: without bound, the turn of the general loss.
    Looked for inside `span`: its start when training helps from there on, None when it does not yet at its end.
    """
    low, high = span

    def slope(tokens: float) -> float:
        return general.slope(tokens) if weight is None else new.slope(tokens) + weight * general.slope(tokens)

    places = np.geomspace(low, high, 400)
    harmful = [index for index, place in enumerate(places) if slope(float(place)) > 0]
    if not harmful:
        return low
    last = harmful[-1]
    if last == len(places) - 1:
        return None
    return float(brentq(slope, places[last], places[last + 1]))


def fit_critical_law(tokens: Sequence[float], shares: Sequence[float]) -> PowerLaw:
    """Equation 8 from pairs (T0(R), R): a ratio is critical for exactly the budget that equals its T0."""
    return fit_power_law(tokens, shares)

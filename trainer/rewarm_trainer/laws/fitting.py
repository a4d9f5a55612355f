"""How well a law fits, how it is fitted from many starts, and how its uncertainty is found. Pure.

The interval is a wild cluster bootstrap over runs: the residuals of all points of one run are multiplied by one of
Webb's six weights (which work with few clusters, unlike signs alone) and added to the fit, the law is refitted, and the
answer asked again; the interval is the middle 95 % of the answers. Residuals are first inflated by sqrt(n / (n - p)), n
points, p parameters, and by t / z: the 97.5 % quantiles of Student's t (n - p degrees of freedom, at most runs - 1) and
of the normal law, for the few points of a study know their own scatter badly. It sees how far runs scatter around the
law, and not a law of the wrong shape: for that the hold-out error stands beside it. Without a spare point (n <= p)
there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import norm as normal
from scipy.stats import t as student

CONFIDENCE = 0.95
HUBER_DELTA = 1e-3
"""Width of the quadratic part, on residuals of the logarithm of the loss (Chinchilla's; recalled, science.md [R])."""

_WEBB = np.sqrt(np.array([0.5, 1.0, 1.5]))
_WEIGHTS = np.concatenate([-_WEBB, _WEBB])


@dataclass(frozen=True)
class Quality:
    """How far a law is from what was measured, in nats per token."""

    points: int
    mse: float
    r2: float | None
    """None when the measured losses are all the same, or there are fewer than two."""
    huber: float
    """Mean Huber loss of log(predicted) - log(measured), delta 1e-3."""
    mean: float
    """Mean absolute error."""
    largest: float
    """Largest absolute error."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def quality(predicted: np.ndarray, measured: np.ndarray) -> Quality:
    """Errors of predicted against measured losses [n]; both above zero, n >= 1."""
    errors = predicted - measured
    spread = float(np.sum((measured - measured.mean()) ** 2))
    return Quality(
        points=len(measured),
        mse=float(np.mean(errors**2)),
        r2=1.0 - float(np.sum(errors**2)) / spread if spread > 0 else None,
        huber=float(np.mean(huber(np.log(np.maximum(predicted, 1e-12)) - np.log(measured)))),
        mean=float(np.mean(np.abs(errors))),
        largest=float(np.max(np.abs(errors))),
    )


def huber(residuals: np.ndarray, delta: float = HUBER_DELTA) -> np.ndarray:
    """Huber's loss: r^2/2 up to delta, then delta (|r| - delta/2)."""
    size = np.abs(residuals)
    result: np.ndarray = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return result


def best_of(
    residuals: Callable[[np.ndarray], np.ndarray],
    starts: Sequence[np.ndarray],
    bounds: tuple[np.ndarray, np.ndarray],
    *,
    delta: float | None,
    evaluations: int = 2000,
    slopes: Callable[[np.ndarray], np.ndarray] | None = None,
    precision: float = 1e-12,
) -> np.ndarray:
    """The parameters with the lowest loss over local fits from all starts: Huber's with `delta`, else squares.
    `slopes`: derivatives of the residuals [n, p]; else by differences.

    Raises ValueError when no start leads to finite residuals.
    """
    low, high = bounds
    best, lowest = None, np.inf
    for start in starts:
        inside = np.clip(start, low, high)
        if not np.all(np.isfinite(residuals(inside))):
            continue
        found = least_squares(
            residuals,
            inside,
            jac=slopes or "2-point",
            bounds=bounds,
            loss="linear" if delta is None else "huber",
            f_scale=1.0 if delta is None else delta,
            x_scale="jac",
            xtol=precision,
            ftol=precision,
            gtol=precision,
            max_nfev=evaluations,
        )
        if found.cost < lowest:
            best, lowest = found.x, found.cost
    if best is None:
        raise ValueError("no start gives finite residuals")
    result: np.ndarray = best
    return result


def disturbed(
    fitted: np.ndarray, measured: np.ndarray, runs: Sequence[object], parameters: int, *, count: int, seed: int = 0
) -> np.ndarray:
    """`count` resampled measurements [count, n]; none when there is no spare point. See the module's head."""
    points, free = len(measured), len(measured) - parameters
    if free <= 0:
        return np.empty((0, points))
    names = list(dict.fromkeys(runs))
    residuals = spread(fitted, measured, parameters, len(names))
    places = np.array([names.index(run) for run in runs])
    weights = np.random.Generator(np.random.PCG64(seed)).choice(_WEIGHTS, (count, len(names)))
    result: np.ndarray = fitted + residuals * weights[:, places]
    return result


def spread(fitted: np.ndarray, measured: np.ndarray, parameters: int, runs: int) -> np.ndarray:
    """Residuals [n], n > p, inflated as the module's head says, so that one more run lies among them."""
    points = len(measured)
    freedom = min(points - parameters, max(1, runs - 1))
    tail = (1 + CONFIDENCE) / 2
    factor = np.sqrt(points / (points - parameters)) * student.ppf(tail, freedom) / normal.ppf(tail)
    result: np.ndarray = (measured - fitted) * factor
    return result


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The middle 95 % of resampled answers; None without any."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return None
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

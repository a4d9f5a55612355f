"""Arithmetic on the weights of several models, one piece of one tensor at a time. Pure: arrays in, arrays out.

Every array is float32 of one shape. Sums are carried in float64 and rounded to float32 once, so that the identities
hold to the bit: the average of equal models is the model, a coefficient of 0 changes nothing, no new text leaves the
instruct model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
AverageKind = Literal["SMA", "EMA", "GeometricEMA"]


def uniform(count: int) -> list[float]:
    """Coefficients of the mean of `count` models: a soup (Wortsman et al. 2022, 2203.05482, section 2), or the last
    checkpoints of a run (LAWA, Sanyal et al. 2023, 2306.03241; SMA in 2511.18903)."""
    if count < 1:
        raise ValueError("an average of no model")
    return [1.0 / count] * count


def averaging(kind: AverageKind, count: int, alpha: float) -> list[float]:
    """Coefficients of `count` checkpoints, oldest first; their sum is 1. `alpha`, 0 < alpha <= 1, is not used by SMA.

    Two readings of the EMA of 2511.18903 are in use, so each has a name (both read second-hand [S]):
    EMA           avg <- alpha * theta + (1 - alpha) * avg from the oldest on: at 0.2 the newest of 6 weighs 0.20,
                  the oldest 0.33
    GeometricEMA  sum_i alpha^i theta_(T-i) / sum_i alpha^i: at 0.2 the newest of 6 weighs 0.80
    """
    if kind == "SMA":
        return uniform(count)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha {alpha}, expected 0 < alpha <= 1")
    if kind == "EMA":
        return [(1.0 if age == count - 1 else alpha) * (1 - alpha) ** age for age in reversed(range(count))]
    powers = [alpha**age for age in reversed(range(count))]
    return [power / sum(powers) for power in powers]


def combine(arrays: Sequence[Array], coefficients: Sequence[float]) -> Array:
    """sum_i coefficients[i] * arrays[i]. What weighs 0 is not looked at, not even where it is not finite."""
    if len(arrays) != len(coefficients):
        raise ValueError(f"{len(arrays)} models, {len(coefficients)} coefficients")
    total: NDArray[np.float64] | None = None
    for array, coefficient in zip(arrays, coefficients, strict=True):
        if coefficient == 0:
            continue
        part = coefficient * array.astype(np.float64)
        total = part if total is None else total + part
    return np.zeros_like(arrays[0]) if total is None else total.astype(np.float32)


def interpolate(trained: Array, base: Array, towards_base: float) -> Array:
    """(1 - a) * theta_trained + a * theta_base, a = `towards_base` in [0, 1]: WiSE-FT (Wortsman et al. 2021,
    2109.01903; recalled [R]) used as a dial of forgetting."""
    if not 0 <= towards_base <= 1:
        raise ValueError(f"towards base {towards_base}, expected 0 to 1")
    return combine([trained, base], [1.0 - towards_base, towards_base])


def residual(trained: Array, instruct: Array, base: Array) -> Array:
    """theta_trained + (theta_instruct - theta_base) (Jindal et al. 2024, 2410.10739; formula read second-hand [S]).

    Where training changed nothing this is the instruct model to the bit, and where instruction tuning changed nothing
    the trained one (a sum of floats alone would lose the sign of zero).
    """
    change = trained.astype(np.float64) - base
    result = (instruct + change).astype(np.float32)
    return np.where(_same_bits(trained, base), instruct, np.where(_same_bits(instruct, base), trained, result))


def _same_bits(one: Array, two: Array) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = np.ascontiguousarray(one).view(np.int32) == np.ascontiguousarray(two).view(np.int32)
    return same.reshape(one.shape)

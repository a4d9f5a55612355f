"""Decides the learning rate at a number of tokens. Never holds state, so there is nothing to save or to resume.

The curves stand in `rewarm_api.curves`, where validation asks them too.
"""

from __future__ import annotations

from rewarm_api.curves import (
    CURVES,
    Curve,
    cosine,
    exponential,
    inverse_sqrt,
    learning_rate,
    linear,
    one_minus_sqrt,
    within,
)

__all__ = [
    "CURVES",
    "Curve",
    "cosine",
    "exponential",
    "inverse_sqrt",
    "learning_rate",
    "linear",
    "one_minus_sqrt",
    "within",
]

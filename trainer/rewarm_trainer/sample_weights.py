"""Weights of the rows of one global batch by their losses (Sow et al. 2025, 2502.06733; formulas of the authors' code).

    l_i: mean loss of row i, no gradient    h_i = (2 l_i - (l_max + l_min)) / (l_max - l_min)   in [-1, 1]

    LinUpper   f = min(h + 1, 1)   rows with a low loss (redundant ones) count less
    Quadratic  f = 1 - h^2         both ends count less ("mid" in the authors' code)
    Extremes   f = |h|             the middle counts less

    w = softmax(f / r)             r: temperature; r -> infinity is uniform

l_max, l_min and the softmax are over the whole global batch, so micro-batches and processes do not enter. Equal losses
weigh the same. A row without a scored label takes no part.

The objective is sum_i w_i n x (nats of row i) / (labels of the batch), n rows taking part: each row keeps its length's
weight beside w (as in the authors' trainer), so that uniform w is exactly the plain mean over labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weighting:
    """How rows are weighed: a strategy, its temperature, and the tokens at the start in which all weigh the same."""

    strategy: str
    temperature: float
    uniform_tokens: int


def importance(losses: Tensor, strategy: str) -> Tensor:
    """f(h) of each loss; losses that are all equal have h = 0. Shape [rows] -> [rows]."""
    low, high = losses.min(), losses.max()
    spread = high - low
    # torch.where, not a branch: a branch would make the host wait for the device.
    scaled = torch.where(spread > 0, (2 * losses - (high + low)) / torch.where(spread > 0, spread, 1.0), 0.0)
    if strategy == "LinUpper":
        return (scaled + 1).clamp(max=1)
    if strategy == "Quadratic":
        return 1 - scaled**2
    if strategy == "Extremes":
        return scaled.abs()
    raise ValueError(f"strategy {strategy!r}: expected LinUpper, Quadratic or Extremes")


def row_weights(nats: Tensor, labels: Tensor, weighting: Weighting) -> Tensor:
    """w_i times the number of rows that take part: 1 on average over them, 0 for a row without labels.

    `nats`, `labels`: summed loss and scored labels of each row of the global batch, [rows]. A loss that is not finite
    makes every weight nan, and so the update, which is then skipped as any update that is not finite.
    """
    taking_part = labels > 0
    losses = nats.double() / labels.double().clamp(min=1)
    # Rows that take no part must not set the ends of the scale: they stand at the mean, which is no end.
    rows = taking_part.sum().clamp(min=1)
    mean = torch.where(taking_part, losses, 0.0).sum() / rows
    value = importance(torch.where(taking_part, losses, mean), weighting.strategy) / weighting.temperature
    value = torch.where(taking_part, value, -torch.inf)
    weights = torch.softmax(torch.where(taking_part.any(), value, torch.zeros_like(value)), 0)
    spread = torch.where(taking_part, nats, 0.0).sum()
    return torch.where(torch.isfinite(spread), weights * rows, torch.nan).to(nats.dtype)

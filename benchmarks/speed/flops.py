"""Model flop utilisation. Pure."""

from __future__ import annotations

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense BF16 of a GPU by what its name holds, as its maker states it (SXM)."""


def per_token(parameters: int, layers: int, hidden: int, length: float) -> float:
    """Operations of forward and backward: 6N + 12 L d S (Chowdhery et al. 2022, appendix B)."""
    return 6.0 * parameters + 12.0 * layers * hidden * length


def forward(parameters: int, layers: int, hidden: int, length: float) -> float:
    """Operations of a forward pass per token: 2N + 4 L d S, a third of the above."""
    return per_token(parameters, layers, hidden, length) / 3


def utilisation(tokens_per_second: float, operations: float, ceiling: float) -> float:
    """Share of `ceiling` (operations a second) that training uses. ValueError without a ceiling."""
    if ceiling <= 0:
        raise ValueError(f"a ceiling of {ceiling} operations a second")
    return tokens_per_second * operations / ceiling


def stated_peak(device: str) -> float | None:
    """The maker's number for a device's name; None for one that is not listed."""
    return next((peak for name, peak in PEAK.items() if name in device), None)


def rows_that_fit(free: int, used_by_one: int, used_by_two: int, margin: float = 0.9) -> int:
    """Micro-batch rows within `margin` of the free bytes, from what one and two rows were seen to use; at least 1."""
    each = max(1, used_by_two - used_by_one)
    fixed = used_by_one - each
    return max(1, int((margin * free - fixed) // each))

"""What a machine can multiply today: the ceiling that training is measured against."""

from __future__ import annotations

import time

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

import torch  # isort: skip


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_ceiling(device: torch.device, size: int, *, bf16: bool, repeats: int = 20) -> float:
    """Operations a second of one large square product, the fastest of `repeats`."""
    kind = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        left @ right
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


class Matmul:
    """All cores of the CPU."""

    def __init__(self, bf16: bool) -> None:
        self._bf16 = bf16

    def measure(self, size: int) -> float:
        """Operations a second."""
        return matmul_ceiling(torch.device("cpu"), size, bf16=self._bf16)

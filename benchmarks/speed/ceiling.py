"""The machine's own limit, beside what is measured on it in the same run."""

from __future__ import annotations

from speed.arm import Arm


def large_product(*, bf16: bool, small: bool) -> float:
    """Operations a second of one large matrix product on all cores, in a process of its own."""
    with Arm("speed.arms.ceiling", "Matmul", {"bf16": bf16}) as product:
        return float(product.ask("measure", size=128 if small else 2048).value)

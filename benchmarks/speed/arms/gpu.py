"""Training steps of the product on one GPU, technique by technique; on a CPU the same code at a tiny size."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

import torch  # isort: skip

from speed.arms.ceiling import matmul_ceiling, synchronise
from speed.arms.training import Rewarm


class Gpu(Rewarm):
    """The product's updater with some techniques off."""

    def __init__(self, work: dict[str, int], *, compiled: bool, chunked: bool, micro_rows: int) -> None:
        super().__init__(work, bf16=True, compiled=compiled, chunked=chunked, device="auto", micro_rows=micro_rows)
        self._device = next(self._losses.parameters()).device
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        self.facts |= {"device": name}

    def run(self, steps: int) -> dict[str, float]:
        super().run(steps)
        synchronise(self._device)
        is_cuda = self._device.type == "cuda"
        return {"peak_bytes": torch.cuda.max_memory_allocated(self._device) if is_cuda else 0}

    def free(self) -> int:
        """Free bytes of the device, what this process keeps counted as free."""
        if self._device.type != "cuda":
            return 0
        free, _ = torch.cuda.mem_get_info(self._device)
        return int(free + torch.cuda.memory_reserved(self._device))

    def ceiling(self, size: int) -> float:
        return matmul_ceiling(self._device, size, bf16=True)

    def without_sync(self, steps: int) -> int:
        """Updates between log steps under a mode that makes every wait for the device an error; how many passed."""
        for _ in range(steps):
            batch = self._loader.batch(self._order, self._step)
            with self._forbidden():
                self._updater.apply(self._step, batch, 1e-4, stop=False, commit=False, by_source=False)
            self._step += 1
        return steps

    def _forbidden(self) -> Any:
        return _NoSync() if self._device.type == "cuda" else nullcontext()


class _NoSync:
    """torch's sync-debug mode: an operation that waits for the device raises."""

    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")

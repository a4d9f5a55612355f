"""Devices, processes and compute type of this process, by accelerate."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from rewarm_api.errors import DataError
from rewarm_trainer import techniques
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.model import precision_for

if TYPE_CHECKING:
    from accelerate import Accelerator

PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: one may have to bring a large checkpoint to or from a far store."""


def open_accelerator(precision: str | None) -> tuple[Accelerator, str]:
    """Devices, processes and compute type, by accelerate. Returns it with the precision that is really on."""
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    from accelerate import Accelerator, InitProcessGroupKwargs

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if techniques.freed_memory(techniques.Switches.read(precision, os.environ).freed_memory, device.type)[0]:
        keep_freed_memory()
    chosen = precision_for(precision, device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if chosen == "BF16" else "no",
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise DataError(f"{wanted} processes were started, accelerate sees {accelerator.num_processes}")
    return accelerator, chosen

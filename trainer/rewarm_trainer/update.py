"""One update: forward, backward, clip, step. The only place where gradients exist.

The summed loss is divided by the number of scored labels of the whole global batch, over all micro-batches and ranks.
A non-finite update is skipped on the device itself; the host learns of it one step later, without waiting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rewarm_trainer.batches import Batch
from rewarm_trainer.sample_weights import Weighting, row_weights
from rewarm_trainer.sharding import is_sharded, whole

if TYPE_CHECKING:
    from accelerate import Accelerator


def reseed(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step are a function of (seed, step, rank): there is nothing to save, resume is exact."""
    text = f"rewarm-step-v1\0{seed}\0{step}\0{rank}".encode()
    torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)


@dataclass
class Outcome:
    """What an update leaves behind, still on the device until somebody reads it.

    numbers: [summed nats, gradient norm, stop requests, commit requests, scored labels]; source_nats, source_labels:
    per source; row_nats: of this rank's rows of the plan.
    """

    step: int
    numbers: Tensor
    learning_rate: float
    source_nats: Tensor | None = None
    source_labels: Tensor | None = None
    row_nats: Tensor | None = None
    copied: Any = None

    def read(self) -> Numbers:
        if self.copied is not None:
            self.copied.synchronize()
        nats, norm, stop, commit, labels = self.numbers.tolist()
        return Numbers(nats / max(1.0, labels), norm, stop > 0, commit > 0)

    def losses(self, names: Mapping[str, int]) -> dict[str, float]:
        """Mean loss by source, for sources that had a scored label in this step."""
        if self.source_nats is None or self.source_labels is None:
            return {}
        nats, labels = self.source_nats.tolist(), self.source_labels.tolist()
        return {name: nats[number] / labels[number] for name, number in names.items() if labels[number]}


@dataclass(frozen=True)
class Numbers:
    """loss: nats per label over the global batch; gradient_norm: before clipping."""

    loss: float
    gradient_norm: float
    stop: bool
    commit: bool

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.loss) and np.isfinite(self.gradient_norm))


def part_weights(weights: Tensor | None, start: int, part: Batch, device: torch.device) -> Tensor:
    """What each row of a micro-batch weighs among the rows of its rank: 1 where all weigh the same. [rows]."""
    if weights is None:
        return torch.ones(len(part), device=device)
    return weights[start : start + len(part)].float()


class Updater:
    """Applies updates to one model under one optimizer."""

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_rows: int,
        clip: float,
        seed: int,
        sources: int,
        weighting: Weighting | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._module = module
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._micro_rows = micro_rows
        self._clip = clip
        self._seed = seed
        self._sources = sources
        self._weighting = weighting
        self._sharded = any(is_sharded(parameter) for parameter in self._parameters)
        self._device = accelerator.device
        self._world = accelerator.num_processes

    def apply(self, step: int, batch: Batch, rate: float, *, stop: bool, commit: bool, by_source: bool) -> Outcome:
        """Update `step` + 1 with this rank's `batch` at learning rate `rate`."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        reseed(self._seed, step, self._accelerator.process_index)
        labels = self._global_labels(batch)
        weights = self._row_weights(step, batch) if self._weighting else None
        row_nats, source_nats, source_labels = self._backward(batch, labels, by_source, weights)
        nats = row_nats.sum()
        row_nats = row_nats.view(-1, batch.pieces).sum(1)
        norm = self._clip_gradients()
        # The fused optimizer reads this flag on the device: a non-finite update changes nothing, and nobody waits.
        self._optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        known = self._moved(np.array([stop, commit, batch.valid], np.float32))
        numbers = torch.cat([torch.stack([nats, norm / self._world]), known])
        if self._world > 1:
            for tensor in (numbers, source_nats, source_labels):
                if tensor is not None:
                    torch.distributed.all_reduce(tensor)
        used = float(self._optimizer.param_groups[0]["lr"])
        return self._copy(Outcome(step, numbers, used, source_nats, source_labels, row_nats))

    def broken_rows(self, outcome: Outcome) -> list[int]:
        """Which rows of the global batch had a loss that is not finite. Every rank asks; it waits for the device."""
        assert outcome.row_nats is not None
        own = ~torch.isfinite(outcome.row_nats)
        everyone = [own]
        if self._world > 1:
            everyone = [torch.empty_like(own) for _ in range(self._world)]
            torch.distributed.all_gather(everyone, own)
        return [number for number, is_broken in enumerate(torch.cat(everyone).tolist()) if is_broken]

    def _global_labels(self, batch: Batch) -> Tensor | float:
        # A batch of nothing but document ends has no label; its gradient is zero, not undefined.
        if self._world == 1:
            return float(max(1, batch.valid))
        total = self._moved(np.array(batch.valid, np.float32))
        torch.distributed.all_reduce(total)
        return total.clamp(min=1.0)

    def _row_weights(self, step: int, batch: Batch) -> Tensor | None:
        """Weights of this rank's rows among those of the global batch; None while all weigh the same.

        Costs a forward pass: a row's weight needs the losses of all other rows before its gradient is taken.
        """
        assert self._weighting
        if (step + 1) * self._tokens_per_step(batch) <= self._weighting.uniform_tokens:
            return None
        nats = []
        with torch.no_grad():
            size = self._micro_rows * batch.pieces
            for start in range(0, len(batch), size):
                nats.append(self._module(*self._tensors(batch.part(start, start + size))).sum(1))
        own = torch.stack([torch.cat(nats), self._labels_of_rows(batch)])
        everyone = [own]
        if self._world > 1:
            everyone = [torch.empty_like(own) for _ in range(self._world)]
            torch.distributed.all_gather(everyone, own)
        # The training pass drops out what this one did: the losses weighed are the losses trained on.
        reseed(self._seed, step, self._accelerator.process_index)
        found = row_weights(*torch.cat(everyone, dim=1), self._weighting)
        first = self._accelerator.process_index * len(batch)
        return found[first : first + len(batch)]

    def _tokens_per_step(self, batch: Batch) -> int:
        return int(batch.inputs.size) * self._world

    def _labels_of_rows(self, batch: Batch) -> Tensor:
        return self._moved(batch.scored.astype(np.float32))

    def _backward(
        self, batch: Batch, labels: Tensor | float, by_source: bool, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients; summed nats by row, and nats and labels by source where asked."""
        nats = []
        source_nats = torch.zeros(self._sources, device=self._device) if by_source else None
        source_labels = torch.zeros(self._sources, device=self._device) if by_source else None
        # As many tokens at a time as with whole rows: what fits into memory stays what it is.
        size = self._micro_rows * batch.pieces
        for start in range(0, len(batch), size):
            part = batch.part(start, start + size)
            is_last = start + size >= len(batch)
            with self._synchronised_only_at(is_last):
                # DDP and FSDP2 average gradients; the labels are those of all ranks, so the mean is undone here.
                scale = self._world / labels
                own = part_weights(weights, start, part, self._device) * scale
                objective, token_nats = self._module(*self._tensors(part), weights=own)
                self._accelerator.backward(objective)
            row_nats = token_nats.detach().sum(1)
            nats.append(row_nats)
            if source_nats is not None and source_labels is not None:
                owners = self._moved(part.sources)
                source_nats.index_add_(0, owners, row_nats)
                source_labels.index_add_(0, owners, self._labels_of_rows(part))
        return torch.cat(nats), source_nats, source_labels

    def _synchronised_only_at(self, is_last: bool) -> AbstractContextManager[object]:
        if is_last or self._world == 1 or self._sharded:
            # What is not reduced at once would be held whole: sharding is there to save that memory.
            return nullcontext()
        return self._accelerator.no_sync(self._module)

    def _tensors(self, part: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        positions = None if part.positions is None else self._moved(part.positions)
        if self._device.type == "cuda" and part.positions is not None and (part.positions[:, 1:] > 0).all():
            # One document a row: as if there were no documents, and attention needs no mask.
            positions = None
        return self._moved(part.inputs), self._moved(part.labels), positions

    def _moved(self, array: np.ndarray) -> Tensor:
        """On the device, without waiting for it: what is not pinned would be copied while the host stands still."""
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _clip_gradients(self) -> Tensor:
        """The global gradient norm; gradients are scaled down to `clip` where it is larger (0: never)."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if self._clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        return norm

    def _copy(self, outcome: Outcome) -> Outcome:
        if self._device.type == "cuda":
            pinned = torch.empty(len(outcome.numbers), dtype=outcome.numbers.dtype, pin_memory=True)
            pinned.copy_(outcome.numbers, non_blocking=True)
            outcome.numbers = pinned
            outcome.copied = torch.cuda.Event()
            outcome.copied.record()
        return outcome

"""Saving and restoring a run: weights, optimizer and state, in one checkpoint that loads as a Hugging Face folder too.

A commit copies the tensors and returns; files are written, hashed and committed on a thread of their own. Old ones are
pruned only after the new one is durable.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import _CHECKPOINT_PREFIX

from rewarm_api.errors import DataError
from rewarm_trainer.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Checkpoint,
    Checkpoints,
)
from rewarm_trainer.faults import reached
from rewarm_trainer.files import copy_files, write_bytes_file, write_json_file
from rewarm_trainer.peers import Alone, Peers
from rewarm_trainer.runlog import PASSED_OVER
from rewarm_trainer.sharding import collected, is_sharded, owners, put, state_like
from rewarm_trainer.state import TrainState, best_step
from rewarm_trainer.tensor_files import StoredTensors, index_name, index_of, part_name


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights by name, each storage once: tied weights are saved under their first name."""
    seen: set[tuple[int, torch.Size]] = set()
    parameters, result = parameters_of(model), {}
    for name, tensor in model.state_dict().items():
        if is_sharded(tensor):
            # It has no storage of its own to tell it by; the part of a small one may even be empty.
            if name in parameters:
                result[name] = tensor
            continue
        key = (tensor.data_ptr(), tensor.shape)
        if key not in seen:
            seen.add(key)
            result[name] = tensor
    return result


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put saved weights back, in place, each process its part; a name or a shape that does not fit is refused."""
    own = weights_of(model)
    if own.keys() != weights.keys():
        differing = sorted(own.keys() ^ weights.keys())
        raise DataError(f"{where}: {len(differing)} weights do not fit this model, the first is {differing[0]}")
    for name, tensor in own.items():
        saved = weights[name]
        if tensor.shape != saved.shape:
            raise DataError(f"{where}: {name} has shape {tuple(saved.shape)}, the model expects {tuple(tensor.shape)}")
        put(tensor, saved)


class Saved(Protocol):
    """What of a model is saved, and how it comes back: all of it, or what an adaptation trains."""

    def files(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by file; `model.safetensors` is a whole model."""

    def companions(self, folder: Path) -> None:
        """Small files of its own."""

    def load(self, folder: Path) -> None:
        """Put back what a checkpoint holds."""


class WholeModel:
    """Every weight is trained, so every weight is saved and put back."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def files(self) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: weights_of(self._model)}

    def companions(self, folder: Path) -> None:
        return

    def load(self, folder: Path) -> None:
        load_weights(self._model, StoredTensors.of(folder, WEIGHTS), str(folder / WEIGHTS))


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under the names that they have in a checkpoint, however activations are recomputed."""
    return {name.replace(_CHECKPOINT_PREFIX, ""): parameter for name, parameter in model.named_parameters()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts as `<field>/<parameter name>`."""
    names = {parameter: name for name, parameter in parameters_of(model).items()}
    return {
        f"{field}/{names[parameter]}": value
        for parameter, fields in optimizer.state.items()
        for field, value in fields.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments and step counts back; those of frozen weights are left out, those of another model refused.

    Settings (learning rate, betas, decay) never come from a file.
    """
    parameters = parameters_of(model)
    optimizer.state.clear()
    for key in tensors:
        field, name = key.split("/", 1)
        parameter = parameters.get(name)
        if parameter is None:
            raise DataError(f"the optimizer state holds {name}, which this model does not have; it is another model's")
        if not parameter.requires_grad:
            continue
        optimizer.state[parameter][field] = state_like(parameter, tensors[key])


def reset_moments(optimizer: torch.optim.Optimizer) -> None:
    """Moments and step count 0 (ResetMoments): keeping the count would lose the bias correction."""
    for fields in optimizer.state.values():
        for value in fields.values():
            value.zero_()


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Files:
    """Tensors by file, and the index of the parts where a model lies in several."""

    tensors: dict[str, dict[str, Tensor]]
    index: bytes = b""


def _index(weights: dict[str, Tensor], world: int) -> bytes:
    """Hugging Face's index of the files that `world` processes write."""
    names: list[list[str]] = [[] for _ in range(world)]
    for name, owner in owners({name: tensor.numel() for name, tensor in weights.items()}, world).items():
        names[owner].append(name)
    return index_of(WEIGHTS, names, sum(tensor.numel() * tensor.element_size() for tensor in weights.values()))


class Extra(Protocol):
    """Tensors of a method that an exact resume needs, in a file of their own in every checkpoint."""

    @property
    def file(self) -> str: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor], where: str) -> None: ...

    def start(self) -> None:
        """Begin from the base's weights."""


class Keeper:
    """Commits and restores for one run. Every rank holds one; only rank 0 writes, with `peers` each its own files."""

    def __init__(
        self,
        *,
        checkpoints: Checkpoints,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        load_base: Callable[[], TrainState],
        companions: Callable[[], list[Path]],
        config: Callable[[Path], None],
        keep: int,
        rank: int,
        world: int,
        listen: Callable[[dict[str, Any]], None],
        before_commit: Callable[[], None],
        before_publish: Callable[[], None] = lambda: None,
        extras: Sequence[Extra] = (),
        spared: Callable[[int], Collection[int]] = lambda step: (),
        saved: Saved | None = None,
        peers: Alone | Peers | None = None,
    ) -> None:
        """`before_commit` runs on the training thread, `before_publish` on the writer's, before anything is public.

        `spared`: the steps that must stay when training stands at one. `peers`: the processes that hold parts of the
        state, where it is sharded.
        """
        self._checkpoints, self._model, self._optimizer = checkpoints, model, optimizer
        self._load_base, self._companions, self._config = load_base, companions, config
        self._keep, self._rank, self._world = keep, rank, world
        self._listen, self._before_commit, self._before_publish = listen, before_commit, before_publish
        self._extras = tuple(extras)
        self._spared = spared
        self._saved: Saved = saved or WholeModel(model)
        self._peers: Alone | Peers = peers or Alone()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="rewarm-checkpoint")
        self._writing: Future[Checkpoint | None] | None = None
        self.last: Checkpoint | None = None
        self.last_commit_time = time.monotonic()

    def commit(self, state: TrainState, *, wait: bool) -> None:
        """Save the run as it stands after `state.step` updates; with `wait` return only when it is durable."""
        if self._rank == 0 or self._peers.world > 1:
            self.wait()
            began = time.monotonic()
            self._before_commit()
            files = self._staged()
            stalled = time.monotonic() - began
            state.seconds["checkpoint"] = state.seconds.get("checkpoint", 0.0) + stalled
            frozen = copy.deepcopy(state.to_json())
            self._writing = self._writer.submit(self._write, frozen, files, stalled)
            if wait:
                self.wait()
                state.seconds["checkpoint"] += time.monotonic() - began - stalled
        self.last_commit_time = time.monotonic()
        if wait and self._world > 1:
            torch.distributed.barrier()

    def _staged(self) -> _Files:
        """Copies in host memory of what this process writes: all of the state, or its share of one that is sharded."""
        tensors = {**self._saved.files(), OPTIMIZER: optimizer_tensors(self._model, self._optimizer)}
        rank, world = self._peers.rank, self._peers.world
        if world > 1:
            parts = {part_name(file, rank, world): collected(named, rank, world) for file, named in tensors.items()}
            return _Files(parts, _index(tensors[WEIGHTS], world))
        extras = {extra.file: _copied(extra.tensors()) for extra in self._extras}
        return _Files({**{file: _copied(named) for file, named in tensors.items()}, **extras})

    def wait(self) -> None:
        """Until what was handed over is durable; its error, if it had one, is raised here."""
        writing, self._writing = self._writing, None
        if writing:
            self.last = writing.result() or self.last

    def _write(self, state: dict[str, Any], files: _Files, stalled: float) -> Checkpoint | None:
        """The checkpoint, once it is durable; None on other ranks than 0."""
        began = time.monotonic()
        folder = self._checkpoints.place(state["step"], self._rank)
        try:
            self._peers.agree(lambda: self._fill(state, files))
            checkpoint = self._checkpoints.commit(state["step"], state["tokens"], folder, self._peers)
        finally:
            # A full disk gets the space of the half-written files back.
            shutil.rmtree(folder, ignore_errors=True)
        if self._rank:
            return None
        best = best_step(state, self._checkpoints.committed())
        pruned = self._checkpoints.prune(self._keep, best, self._spared(state["step"]))
        self._listen(
            {
                "event": "checkpoint committed",
                "step": state["step"],
                "tokens": state["tokens"],
                "path": checkpoint.uri,
                "sha256": checkpoint.sha256,
                "seconds": round(time.monotonic() - began, 3),
                "stalled_seconds": round(stalled, 3),
                "pruned": pruned,
            }
        )
        return checkpoint

    def _fill(self, state: dict[str, Any], files: _Files) -> None:
        """The files of this process; what does not depend on shards is rank 0's."""
        from safetensors.torch import save

        folder = self._checkpoints.stage(state["step"], self._rank)
        for name, tensors in files.tensors.items():
            (folder / name).parent.mkdir(exist_ok=True)
            is_model = name.startswith("model") or "/" in name
            write_bytes_file(folder / name, save(tensors, metadata={"format": "pt"} if is_model else None))
            reached("stage.file")
        if self._rank == 0:
            if files.index:
                write_bytes_file(folder / index_name(WEIGHTS), files.index)
            self._saved.companions(folder)
            write_json_file(folder / STATE, state)
            self._config(folder)
            copy_files(self._companions(), folder)
            reached("stage.done")
            self._before_publish()

    def _passed_over(self, step: int) -> None:
        if self._rank == 0:
            self._listen({"event": PASSED_OVER, "step": step})

    def warn(self, message: str) -> None:
        if self._rank == 0:
            self._listen({"event": "warning", "message": message})

    def restore(self) -> TrainState:
        """Weights, optimizer and state of the newest good checkpoint, or the base when none was ever committed."""
        self.wait()
        if self._world > 1:
            torch.distributed.barrier()
        checkpoint = self._checkpoints.newest(self.warn, self._passed_over)
        if checkpoint is None:
            state = self._load_base()
            for extra in self._extras:
                extra.start()
            return state
        self.load(checkpoint)
        self.last = checkpoint
        state = TrainState.from_json(checkpoint.state())
        reached("restore.done")
        if self._world > 1:
            torch.distributed.barrier()
        self._checkpoints.release(checkpoint.step)
        return state

    def load(self, checkpoint: Checkpoint) -> None:
        from safetensors.torch import load_file

        self._saved.load(checkpoint.folder)
        load_optimizer(self._model, self._optimizer, StoredTensors.of(checkpoint.folder, OPTIMIZER))
        for extra in self._extras:
            path = checkpoint.folder / extra.file
            if not path.exists():
                raise DataError(f"{path}: missing, but this run's method cannot go on without it; start over")
            extra.load(load_file(path), str(path))

    def close(self) -> None:
        self._writer.shutdown(wait=True)

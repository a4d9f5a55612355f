"""Weights, gradients and moments of which each process holds a part (FSDP2), and whole tensors made of the parts.

    a weight of n rows, W processes: process r holds rows [r*c, min((r+1)*c, n)), c = ceil(n / W)

Block by block the parts meet before a pass and part again after it, so that one block at most is whole. Everything
that meets here is a collective: every process calls it, with the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from rewarm_trainer.model import TokenLosses, blocks_of

if TYPE_CHECKING:
    # Seconds to import, and a run of whole weights never needs it.
    from torch.distributed.tensor import DTensor


def shard(losses: TokenLosses, device: torch.device, precision: str) -> None:
    """Shard a model in place, in the units that are compiled: each block, and the rest as one.

    Masters stay FP32. With BF16 the parts meet and compute in BF16; gradients are reduced in FP32. The rest parts after
    each pass too: nothing may find a weight whole between passes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    computed = torch.bfloat16 if precision == "BF16" else None
    for block in blocks_of(losses.model):
        policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    # Among its inputs are the weights of rows: they scale the loss and stay as exact as they are.
    policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(losses, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    if computed is not None:
        # As accelerate does for a model that it prepares, and evaluation for every model.
        losses.forward = torch.autocast(device.type, computed)(losses.forward)  # type: ignore[method-assign]


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, on every process."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def rows_per_process(rows: int, world: int) -> int:
    """The largest part of a tensor of so many rows."""
    return -(-rows // world)


def own_rows(tensor: DTensor) -> slice:
    """Which rows of the whole this process holds."""
    world, rank = tensor.device_mesh.size(), tensor.device_mesh.get_local_rank()
    part = rows_per_process(tensor.shape[0], world)
    return slice(min(rank * part, tensor.shape[0]), min((rank + 1) * part, tensor.shape[0]))


@torch.no_grad()
def put(target: Tensor, source: Tensor) -> None:
    """Write a whole tensor into `target`, of which this process may hold a part. No collective."""
    if is_sharded(target):
        own_part(target).copy_(source[own_rows(target)])
    else:
        target.copy_(source)


def own_part(tensor: DTensor) -> Tensor:
    """The rows that this process holds, in place."""
    part = tensor.to_local().detach()
    rows = own_rows(tensor)
    if len(part) != rows.stop - rows.start:
        raise AssertionError(f"{tuple(tensor.shape)}: this process holds {len(part)} rows, expected {rows}")
    return part


def owners(sizes: Mapping[str, int], world: int) -> dict[str, int]:
    """Which process writes which tensor: the largest first, each to the one that has least so far.

    A function of names and sizes alone: every process finds the same.
    """
    loads = [0] * world
    found = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        found[name] = loads.index(min(loads))
        loads[found[name]] += sizes[name]
    return dict(sorted(found.items()))


def gathered(tensor: DTensor, owner: int) -> Tensor | None:
    """The whole tensor in host memory of `owner`, None on the others: each sends its rows once."""
    world, rank = tensor.device_mesh.size(), tensor.device_mesh.get_local_rank()
    part = rows_per_process(tensor.shape[0], world)
    own = own_part(tensor)
    # A collective wants equal parts; the last ones may be shorter, or empty.
    padded = own.new_zeros((part, *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(world)] if rank == owner else None
    torch.distributed.gather(padded, parts, dst=owner)
    return None if parts is None else torch.cat(parts)[: tensor.shape[0]].to("cpu", copy=True)


def collected(tensors: Mapping[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    """The share of this process when all tensors are divided among all: copies in host memory, whole tensors."""
    mine: dict[str, Tensor] = {}
    for name, owner in owners({name: tensor.numel() for name, tensor in tensors.items()}, world).items():
        tensor = tensors[name].detach()
        if is_sharded(tensor):
            found = gathered(tensor, owner)
            if found is not None:
                mine[name] = found
        elif owner == rank:
            mine[name] = tensor.to("cpu", copy=True)
    return mine


def state_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A saved field of an optimizer as `parameter` needs it: a part of it where that holds a part."""
    if is_sharded(parameter) and value.shape == parameter.shape:
        field: Any = torch.zeros_like(parameter, dtype=value.dtype)
        put(field, value)
        return field
    return value.to(parameter.device, copy=True)

"""Two real processes over gloo, one of each pair of checks: sharded training beside replicated. Rank 0 prints JSON.

python sharded_pair.py      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, as a launcher does
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from tiny_models import SETTINGS, Trainer, batch_of, random_rows, tiny
from torch import Tensor, nn

from rewarm_trainer import sharding
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.evaluation import score
from rewarm_trainer.keeper import load_optimizer, load_weights, optimizer_tensors, weights_of
from rewarm_trainer.looks import rounded_to, weights_digest
from rewarm_trainer.model import TokenLosses, build_optimizer, checkpoint_activations, freeze
from rewarm_trainer.peers import PeerError, Peers
from rewarm_trainer.update import Updater

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


class ShardedTrainer(Trainer):
    """A Trainer as a session builds it for sharded weights."""

    def __init__(self, model: nn.Module, *, precision: str = "FP32", chunked: bool = False) -> None:
        super().__init__(tiny(), precision=precision)
        self.model, self.losses = model, TokenLosses(model)
        if chunked:
            assert self.losses.chunk_loss(compiled=False)
        sharding.shard(self.losses, torch.device("cpu"), precision)
        self.optimizer = build_optimizer(model, SETTINGS)
        self.losses.train()
        self.updater = Updater(
            self.accelerator, self.losses, self.optimizer, micro_rows=2, clip=SETTINGS.gradient_clip, seed=0, sources=1
        )


def part(step: int) -> Any:
    """This process's rows of the global batch of 8."""
    return batch_of(random_rows(8, seed=step)).part(4 * RANK, 4 * RANK + 4)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: sharding.whole(tensor.detach()).clone() for name, tensor in tensors.items()}


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def trained(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.apply(step, part(step)).read().loss for step in range(steps)]


def beside_replicated(kind: str, change: Any = lambda model: None, **options: Any) -> dict[str, Any]:
    """Three updates, clipped ones among them, of the same model in both ways; `change` prepares each."""
    changes = {"tie_word_embeddings": True} if kind == "llama" else {}
    models = tiny(kind, **changes), tiny(kind, **changes)
    for model in models:
        change(model)
    plain, own = Trainer(models[0], micro_rows=2), ShardedTrainer(models[1], **options)
    losses = trained(plain, 3), trained(own, 3)
    moments = whole(optimizer_tensors(own.model, own.optimizer))
    return {
        "loss": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "weights": farthest(whole(weights_of(plain.model)), whole(weights_of(own.model))),
        "moments": farthest(whole(optimizer_tensors(plain.model, plain.optimizer)), moments),
        "sharded": all(map(sharding.is_sharded, own.model.parameters())),
        "held": sum(p.to_local().numel() for p in own.model.parameters())
        / sum(p.numel() for p in own.model.parameters()),
    }


def saved_and_loaded() -> dict[str, Any]:
    """Shares of both processes together are the whole, and come back to the bit in either way of training."""
    own = ShardedTrainer(tiny("llama", intermediate_size=33))
    trained(own, 2)
    state = {**weights_of(own.model), **optimizer_tensors(own.model, own.optimizer)}
    wanted = whole(state)
    shares: list[Any] = [None] * WORLD
    torch.distributed.all_gather_object(shares, sharding.collected(state, RANK, WORLD))
    together = {name: tensor for share in shares for name, tensor in share.items()}
    weights = {name: together[name] for name in weights_of(own.model)}
    moments = {name: tensor for name, tensor in together.items() if name not in weights}
    later = trained(own, 3)
    found: dict[str, Any] = {
        "shares": [sum(tensor.numel() for tensor in share.values()) for share in shares],
        "disjoint": sum(map(len, shares)) == len(together),
        "collected": farthest(wanted, together),
    }
    again = ShardedTrainer(tiny("llama", seed=9, intermediate_size=33))
    plain = Trainer(tiny("llama", seed=9, intermediate_size=33), micro_rows=2)
    for name, other in (("sharded", again), ("replicated", plain)):
        load_weights(other.model, weights, "here")
        load_optimizer(other.model, other.optimizer, moments)
        loaded = whole({**weights_of(other.model), **optimizer_tensors(other.model, other.optimizer)})
        found[name] = farthest(wanted, loaded)
        found[f"{name} goes on"] = max(abs(a - b) for a, b in zip(trained(other, 3), later, strict=True))
    return found


def parts_of_small_tensors() -> dict[str, Any]:
    """One row among two processes: one of them holds nothing."""
    small = nn.Linear(3, 1, bias=True)
    values = {name: tensor.detach().clone() for name, tensor in small.named_parameters()}
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(small, mesh=init_device_mesh("cpu", (WORLD,)))
    rows = [(own.start, own.stop) for own in map(sharding.own_rows, small.parameters())]
    found = whole(dict(small.named_parameters()))
    doubled = {name: 2 * value for name, value in values.items()}
    for name, parameter in small.named_parameters():
        sharding.put(parameter, doubled[name])
    return {
        "rows": rows,
        "same": farthest(values, found),
        "put": farthest(doubled, whole(dict(small.named_parameters()))),
    }


def not_finite() -> dict[str, Any]:
    """A broken row on one process: no process moves, and all know."""
    own = ShardedTrainer(tiny())
    before = whole(weights_of(own.model))
    if RANK == 1:
        with torch.no_grad():
            own.losses.register_forward_pre_hook(
                lambda module, given, named: (given, {**named, "weights": named["weights"] * float("nan")}),
                with_kwargs=True,
            )
    numbers = own.apply(0, part(0)).read()
    return {"finite": numbers.finite, "moved": farthest(before, whole(weights_of(own.model)))}


def scored() -> dict[str, Any]:
    """An odd number of batches, on the masters and rounded: as a model that is whole."""
    random = np.random.default_rng(7)
    lengths = [5, 40, 3, 17, 9, 31, 8]
    ids = [random.integers(2, 50, length) for length in lengths]
    documents = EvaluationDocuments("set", ids, [3 * n for n in lengths], [f"h{n}" for n in range(len(lengths))])
    plain, own = TokenLosses(tiny()), ShardedTrainer(tiny())
    asked: Any = {"bos": None, "eos": 0, "length": 16, "batch_tokens": 32, "precision": "FP32", "top1": True}
    found = {"digest": weights_digest(plain.model) == weights_digest(own.model)}
    for name, dtype in (("masters", torch.float32), ("rounded", torch.bfloat16)):
        with rounded_to(plain.model, dtype), rounded_to(own.model, dtype):
            alone = score(plain, documents, **asked)
            both = score(own.losses, documents, **asked, rank=RANK, world=WORLD, together=True)
        found[name] = float(np.abs(alone.nats - both.nats).max())
        assert alone.top1 is not None
        found[f"{name} marks"] = bool((alone.top1 == both.top1).all())
    found["unrounded"] = farthest(whole(weights_of(plain.model)), whole(weights_of(own.model)))
    return found


def agreed() -> dict[str, Any]:
    """What peers say to each other, and a failure of one."""
    peers = Peers(timedelta(minutes=5))
    found: dict[str, Any] = {"values": peers.agree(lambda: {"rank": RANK, "text": "ü" * RANK})}

    def fail() -> None:
        if RANK == 1:
            raise OSError("no space left")

    try:
        peers.agree(fail)
    except OSError as error:
        found["error"] = f"own: {error}"
    except PeerError as error:
        found |= {"error": str(error), "code": error.exit_code}
    found["after"] = peers.agree(lambda: RANK)
    return found


def main() -> None:
    checks: dict[str, Any] = {
        "llama": lambda: beside_replicated("llama"),
        "gpt2": lambda: beside_replicated("gpt2"),
        "gpt_neox": lambda: beside_replicated("gpt_neox"),
        "chunked": lambda: beside_replicated("llama", chunked=True),
        "bf16": lambda: beside_replicated("llama", chunked=True, precision="BF16"),
        "recomputed": lambda: beside_replicated("llama", lambda model: checkpoint_activations(model, "Full")),
        "frozen": lambda: beside_replicated("llama", lambda model: freeze(model, ["*embed*", "*layers.0*"])),
        "saved": saved_and_loaded,
        "small": parts_of_small_tensors,
        "not finite": not_finite,
        "scored": scored,
        "agreed": agreed,
    }
    found = {}
    for name, check in checks.items():
        found[name] = check()
        torch.distributed.barrier()
    if RANK == 0:
        print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

"""LoRA: low-rank changes to frozen weights, by peft. Merged wherever a model leaves the run.

W = W0 + (alpha / rank) * B A (Hu et al. 2021, 2106.09685, section 4.1), on every linear map of attention and MLP, as
Biderman et al. 2024 (2405.09673) found best. B begins at 0, so the start is the base itself. A begins as peft has it
(uniform by He et al. 2015, as in the authors' code); 2405.09673 writes N(0, 1) in its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import _CHECKPOINT_PREFIX

from rewarm_api.errors import DataError
from rewarm_api.snapshot import Lora
from rewarm_trainer.checkpoint import WEIGHTS
from rewarm_trainer.files import write_bytes_file
from rewarm_trainer.model import blocks_of
from rewarm_trainer.update import reseed

ADAPTER = "default"
FILE = "adapter/adapter_model.safetensors"
CONFIG = "adapter/adapter_config.json"
"""In a folder of their own: beside a model, transformers would put the adapter on top of what is merged already."""
_PEFT_PREFIX = "base_model.model."


def linear_names(model: nn.Module) -> list[str]:
    """Every linear map inside the blocks: attention and MLP, not the embeddings and not the head."""
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for module in blocks_of(model).modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D)
    ]


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> dict[str, Any]:
    """Freeze the model and put an adapter on each linear map, in place. Returns peft's configuration as JSON."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=linear_names(model),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    start(model, seed)
    given: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=_plain))
    return {**given, "target_modules": sorted(config.target_modules), "inference_mode": True}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every adapted linear map; none in a model without adapters."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name.replace(_CHECKPOINT_PREFIX, ""), module


def start(model: nn.Module, seed: int) -> None:
    """Adapters as they were before the first update: the same for the same seed, on every rank."""
    with torch.random.fork_rng(devices=[]):
        reseed(seed, -1, 0)
        for _, layer in layers(model):
            layer.reset_lora_parameters(ADAPTER, True)


def silence(model: nn.Module) -> None:
    """B = 0: from here on the model is its base weights alone."""
    with torch.no_grad():
        for _, layer in layers(model):
            layer.lora_B[ADAPTER].weight.zero_()


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The base weights, in place, under the names that they have without adapters; tied weights once."""
    seen: set[tuple[int, torch.Size]] = set()
    result = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if ".lora_" not in name and key not in seen:
            seen.add(key)
            result[name.replace(".base_layer.", ".")] = tensor
    return result


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes the same."""
    weights = plain_weights(model)
    with torch.no_grad():
        for name, layer in layers(model):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return weights


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted map, in place, under the names that peft's own files have."""
    return {
        f"{_PEFT_PREFIX}{name}.{part}.weight": getattr(layer, part)[ADAPTER].weight
        for name, layer in layers(model)
        for part in ("lora_A", "lora_B")
    }


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """The adapters inside the weights; both come back untouched, to the bit."""
    adapted = [layer for _, layer in layers(model)]
    masters = [layer.get_base_layer().weight.detach().clone() for layer in adapted]
    for layer in adapted:
        layer.merge(adapter_names=[ADAPTER])
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, master in zip(adapted, masters, strict=True):
                layer.get_base_layer().weight.copy_(master)
                layer.merged_adapters.clear()


class LoraWeights:
    """What a checkpoint of a LoRA run holds: the merged model, which loads like any other, and the adapter beside it.

    A resume takes the adapter alone: the base is frozen, and is the run's base model to the bit.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any]) -> None:
        self._model, self._config = model, config

    def files(self) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: merged_weights(self._model), FILE: adapter_weights(self._model)}

    def companions(self, folder: Path) -> None:
        write_bytes_file(folder / CONFIG, json.dumps(self._config, indent=1, sort_keys=True).encode())

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        path = folder / FILE
        if not path.exists():
            raise DataError(f"{path}: missing; this checkpoint was not made with adaptation LoRA")
        saved, own = load_file(path), adapter_weights(self._model)
        if own.keys() != saved.keys():
            differing = sorted(own.keys() ^ saved.keys())
            raise DataError(f"{path}: {len(differing)} weights do not fit, the first is {differing[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.shape != saved[name].shape:
                    raise DataError(f"{path}: {name} has shape {tuple(saved[name].shape)}, not {tuple(tensor.shape)}")
                tensor.copy_(saved[name])

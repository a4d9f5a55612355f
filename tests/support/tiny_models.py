"""Tiny models of several architectures, rows made of numbers, and what trains them: for unit tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState, GradientState
from small_plans import LENGTH as LENGTH
from small_plans import plan_of as plan_of
from torch import nn

from rewarm_api.snapshot import Optimizer
from rewarm_trainer.accelerator import open_accelerator
from rewarm_trainer.batches import Batch, assemble
from rewarm_trainer.model import TokenLosses, build_optimizer, scratch_model
from rewarm_trainer.order import Draw
from rewarm_trainer.update import Updater

EOS, VOCABULARY = 0, 50
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA},
    "qwen2": {"model_type": "qwen2", **_LLAMA},
    "gpt_neox": {
        "model_type": "gpt_neox",
        **{name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"},
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "initializer_range": 0.2,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
}
SETTINGS = Optimizer(kind="AdamW", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, gradient_clip=1.0)


def tiny(kind: str = "llama", seed: int = 3, **changes: Any) -> nn.Module:
    return scratch_model({**CONFIGS[kind], **changes}, VOCABULARY, EOS, seed)


class Table:
    """Rows of tokens in memory, as a source."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows]


def random_rows(count: int, seed: int = 1, length: int = LENGTH, lowest: int = 1) -> np.ndarray:
    """Rows of `length` + 1 tokens in which documents end now and then, in some rows oftener than in others."""
    random = np.random.default_rng(seed)
    tokens = random.integers(lowest, VOCABULARY, (count, length + 1))
    ends = random.random((count, length + 1)) < np.linspace(0.0, 0.4, count)[:, None]
    return np.where(ends, EOS, tokens)


def batch_of(
    rows: np.ndarray, sources: Sequence[str] | None = None, *, masking: bool = True, sequence_length: int = 0
) -> Batch:
    names = list(sources or ["a"] * len(rows))
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    tables = {name: Table(rows) for name in numbers}
    places = {name: np.flatnonzero(np.array(names) == name) for name in numbers}
    draws = [Draw(name, found, np.zeros_like(found), found) for name, found in places.items()]
    return assemble(draws, tables, numbers, eos=EOS, masking=masking, sequence_length=sequence_length)


def forget_accelerator() -> None:
    """accelerate keeps one state a process; the next test may want another precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Trainer:
    """A model under an Updater, as a session builds it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        settings: Optimizer = SETTINGS,
        micro_rows: int = 8,
        precision: str = "FP32",
        sources: int = 1,
        seed: int = 0,
    ) -> None:
        forget_accelerator()
        self.accelerator, self.precision = open_accelerator(precision)
        self.model = model
        self.losses = TokenLosses(model)
        module, prepared = self.accelerator.prepare(self.losses, build_optimizer(model, settings))
        self.optimizer = prepared.optimizer
        module.train()
        self.updater = Updater(
            self.accelerator,
            module,
            self.optimizer,
            micro_rows=micro_rows,
            clip=settings.gradient_clip,
            seed=seed,
            sources=sources,
        )

    def apply(self, step: int, batch: Batch, rate: float = 1e-3, **options: Any) -> Any:
        return self.updater.apply(step, batch, rate, **{"stop": False, "commit": False, "by_source": False, **options})


def collect() -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], None]]:
    """A list and a listener that fills it."""
    records: list[dict[str, Any]] = []
    return records, records.append

"""The trainers that are compared, each on the same rows, the same model and the same optimizer settings.

rewarm    the product's own loader and updater, as `rewarm run` builds them
bare      a plain PyTorch loop with the same techniques, and nothing else
trainer   transformers.Trainer
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rewarm_api.snapshot import Optimizer
from rewarm_trainer.batches import Loader
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.model import TokenLosses, attention_for, build_optimizer, scratch_model
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.update import Updater, micro_batch_rows

EOS, BETAS, EPSILON, DECAY, CLIP, RATE = 0, (0.9, 0.95), 1e-8, 0.1, 1.0, 3e-4


@dataclass(frozen=True)
class Work:
    """What every arm does: rows of `length` tokens, `rows` of them a step, documents of about 200 tokens."""

    hidden: int
    layers: int
    vocabulary: int
    length: int
    rows: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    def model(self) -> nn.Module:
        config = {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 11 // 4,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(1, self.hidden // 32),
            "num_key_value_heads": max(1, self.hidden // 32),
            "max_position_embeddings": self.length,
            "tie_word_embeddings": True,
        }
        return scratch_model(config, self.vocabulary, EOS, seed=1)


class Text:
    """Random token rows with document ends, in memory: no arm waits for a disk."""

    def __init__(self, work: Work, count: int = 512) -> None:
        random = np.random.default_rng(0)
        self.tokens = random.integers(1, work.vocabulary, (count, work.length + 1))
        self.tokens[random.random(self.tokens.shape) < 1 / 200] = EOS
        self.rows = count

    def row(self, index: int) -> np.ndarray:
        row: np.ndarray = self.tokens[index]
        return row


def order_of(text: Text, work: Work) -> Order:
    return Order(
        [Phase(0, 0.0)], seed=1, rows_per_step=work.rows, sizes={"text": text.rows}, corpus={"text": 1.0}, replay={}
    )


def loader_of(text: Text, work: Work) -> Loader:
    return Loader({"text": text}, eos=EOS, masking=True, rank=0, world=1, rows=work.rows)


class Rewarm:
    """The product's updater and loader."""

    def __init__(self, work: Work, text: Text, *, bf16: bool, compiled: bool) -> None:
        from accelerate import Accelerator

        keep_freed_memory()
        os.environ["ACCELERATE_USE_CPU"] = "true"
        accelerator = Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no")
        rows = micro_batch_rows(None, work.rows, work.length, work.vocabulary, accelerator.device)
        losses = TokenLosses(work.model())
        attention = attention_for(accelerator.device, "BF16" if bf16 else "FP32", compiled, rows, work.length)
        losses.model.set_attn_implementation(attention)  # type: ignore[operator]
        if compiled:
            losses.compile_blocks()
        settings = Optimizer(
            kind="AdamW",
            beta1=BETAS[0],
            beta2=BETAS[1],
            epsilon=EPSILON,
            weight_decay=DECAY,
            gradient_clip=CLIP,
        )
        module, optimizer = accelerator.prepare(losses, build_optimizer(losses.model, settings))
        self._updater = Updater(accelerator, module, optimizer.optimizer, micro_rows=rows, clip=CLIP, seed=1, sources=1)
        self._loader, self._order, self._step = loader_of(text, work), order_of(text, work), 0

    def run(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            batch = self._loader.batch(self._order, self._step)
            outcome = self._updater.apply(
                self._step, batch, RATE, stop=False, commit=False, by_source=self._step % 10 == 0
            )
            outcome.read()
            self._step += 1
        return time.perf_counter() - began


class Bare:
    """Forward, backward, clip, step: the least that trains, with the same techniques as the product."""

    def __init__(self, work: Work, text: Text, *, bf16: bool, compiled: bool) -> None:
        keep_freed_memory()
        self._model = work.model()
        attention = attention_for(torch.device("cpu"), "BF16" if bf16 else "FP32", compiled, work.rows, work.length)
        self._model.set_attn_implementation(attention)  # type: ignore[operator]
        self._loss: Callable[..., torch.Tensor] = nn.functional.cross_entropy
        if compiled:
            for block in self._model.model.layers:  # type: ignore[union-attr]
                block.compile(dynamic=False)
            self._loss = torch.compile(nn.functional.cross_entropy, dynamic=False)
        matrices = [p for p in self._model.parameters() if p.ndim >= 2]
        vectors = [p for p in self._model.parameters() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=RATE,
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )
        self._bf16 = bf16
        self._loader, self._order, self._step = loader_of(text, work), order_of(text, work), 0

    def run(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            batch = self._loader.batch(self._order, self._step)
            inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
            assert batch.positions is not None
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                logits = self._model(
                    input_ids=inputs, position_ids=torch.from_numpy(batch.positions), use_cache=False
                ).logits
            loss = self._loss(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._step += 1
        return time.perf_counter() - began


class HuggingFace:
    """transformers.Trainer on the same rows; what it does beside training (logging, saving) is off."""

    def __init__(self, work: Work, text: Text, *, bf16: bool, compiled: bool) -> None:
        self._work, self._text, self._bf16, self._compiled = work, text, bf16, compiled
        self._model = work.model()
        self._step = 0

    def run(self, steps: int) -> float:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        marks: list[float] = []

        class Watch(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
                marks.append(time.perf_counter())

        arguments = TrainingArguments(
            output_dir="/tmp/rewarm-speed",
            per_device_train_batch_size=self._work.rows,
            max_steps=steps + 1,
            learning_rate=RATE,
            weight_decay=DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=CLIP,
            bf16=self._bf16,
            torch_compile=self._compiled,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        Trainer(self._model, arguments, train_dataset=_Examples(self._text), callbacks=[Watch()]).train()
        # The first step starts the data loader and whatever else a start costs: it is not counted.
        return marks[-1] - marks[0]


class _Examples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, text: Text) -> None:
        self._text = text

    def __len__(self) -> int:
        return self._text.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        from rewarm_trainer.batches import document_positions

        row = self._text.row(index)
        # The Trainer's model shifts labels itself: the label at j + 1 is the one after input j.
        labels = row[:-1].copy()
        labels[1:][row[:-2] == EOS] = -100
        return {
            "input_ids": torch.from_numpy(row[:-1].copy()),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(document_positions(row[None, :-1], EOS)[0]),
        }

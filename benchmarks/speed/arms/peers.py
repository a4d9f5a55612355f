"""Training steps of peers, in their own environments: litgpt and OLMo-core.

Both take the rows as they are; neither lets documents of a row stay apart, so they do no work for that.
"""

from __future__ import annotations

from typing import Any

import torch

from speed.work import BETAS, CLIP, DECAY, EPSILON, RATE, Text, Work, step_rows


class _Loop:
    """A peer's model under its own way to take a step."""

    def __init__(self, work: dict[str, int]) -> None:
        self._work = Work(**work)
        self._text, self._step = Text(self._work), 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            rows = torch.from_numpy(step_rows(self._text, self._work, self._step))
            self._update(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
            self._step += 1

    def _update(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        raise NotImplementedError


def counted(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, fused=True)


class LitGPT(_Loop):
    """litgpt's model and loss under Lightning Fabric, a step as its `pretrain` takes it: compiled, fused AdamW."""

    def __init__(self, work: dict[str, int], *, bf16: bool, compiled: bool) -> None:
        super().__init__(work)
        from lightning.fabric import Fabric
        from litgpt import GPT, Config
        from litgpt.utils import chunked_cross_entropy

        sizes = self._work
        config = Config(
            name="bench", block_size=sizes.length, n_layer=sizes.layers, n_embd=sizes.hidden, n_head=sizes.heads,
            vocab_size=sizes.vocabulary, padded_vocab_size=sizes.vocabulary, rotary_percentage=1.0,
            parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
            intermediate_size=sizes.intermediate,
        )  # fmt: skip
        self._fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if bf16 else "32-true")
        torch.manual_seed(1)
        model = GPT(config)
        model.transformer.wte.weight = model.lm_head.weight
        self.facts = {"parameters": counted(model)}
        self._loss = chunked_cross_entropy
        self._model = self._fabric.setup(torch.compile(model) if compiled else model)
        self._optimizer = self._fabric.setup_optimizers(optimizer_of(self._model))

    def _update(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        loss = self._loss(self._model(inputs), labels)
        self._fabric.backward(loss)
        self._fabric.clip_gradients(self._model, self._optimizer, max_norm=CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()


class Olmo(_Loop):
    """OLMo-core's Llama under its own compilation of blocks, in the least loop: its trainer asks for a cluster."""

    def __init__(self, work: dict[str, int], *, bf16: bool, compiled: bool) -> None:
        super().__init__(work)
        from olmo_core.nn.transformer import TransformerConfig

        sizes = self._work
        torch.manual_seed(1)
        self._model = TransformerConfig.llama_like(
            d_model=sizes.hidden,
            vocab_size=sizes.vocabulary,
            n_layers=sizes.layers,
            n_heads=sizes.heads,
            # Its inner size is 8/3 of d_model before these two; the work's is 11/4.
            hidden_size_multiplier=33 / 32,
            hidden_size_multiple_of=16,
        ).build()
        self._model.lm_head.w_out.weight = self._model.embeddings.weight
        self.facts = {"parameters": counted(self._model)}
        if compiled:
            self._model.apply_compile()
        self._optimizer, self._bf16 = optimizer_of(self._model), bf16

    def _update(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._model(inputs)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

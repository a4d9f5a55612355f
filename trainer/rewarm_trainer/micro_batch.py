"""How many rows one process computes at a time. Pure: no torch, so `rewarm plan` chooses as training does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CPU_TOKENS = 8192
"""Of a micro-batch on a CPU: larger ones leave its caches and gain nothing."""
STATE_BYTES = 16
"""Of a parameter in FP32: weight, gradient and AdamW's two moments, 4 bytes each."""
LOGIT_BYTES = 12
"""Of a token and an entry of the vocabulary: a logit in BF16, its FP32 copy, gradients of both."""
LEAST_BYTES = 60_000
"""Of a token in all blocks: what a model is taken for whose configuration does not tell its size."""
USABLE = 0.8
"""Share of a device's free memory to fill: what is computed is uneven, and the allocator leaves gaps."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much its tokens keep for the backward pass. heads: of all layers together."""

    parameters: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int

    @staticmethod
    def of(config: Mapping[str, Any], parameters: int, vocabulary: int) -> Shape:
        """By a configuration of transformers; what a family does not name has its usual ratio, or is 0."""
        hidden = config.get("hidden_size") or config.get("n_embd") or 0
        layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
        heads = config.get("num_attention_heads") or config.get("n_head") or 0
        experts = config.get("num_experts_per_tok") or 1
        intermediate = (config.get("intermediate_size") or config.get("n_inner") or 4 * hidden) * experts
        return Shape(parameters, vocabulary, hidden, layers, heads * layers, intermediate)


def token_bytes(shape: Shape, recomputed: str = "None") -> int:
    """Bytes that a token keeps until its backward pass, logits included: an upper bound for a block in BF16.

    A block as Korthikanti et al. 2022 (2205.05198, section 4.1) count it, for one with a gate: inputs of the products
    (2 bytes each) and both norms with their FP32 copies. `recomputed`: training.activationCheckpointing.
    """
    block = 36 * shape.hidden + 8 * shape.intermediate
    blocks = max(LEAST_BYTES, block * shape.layers)
    if recomputed != "None":
        # What enters each block, and one block as a whole. Selective keeps more; half of all is more than it ever did.
        kept = 2 * shape.hidden * shape.layers + block
        blocks = kept if recomputed == "Full" else max(kept, blocks // 2)
    return blocks + LOGIT_BYTES * shape.vocabulary


def tokens_that_fit(free: int, shape: Shape, *, processes: int = 1, recomputed: str = "None") -> int:
    """Tokens of a micro-batch for `free` bytes of a device that holds nothing yet, at least one.

    Weights, gradients and moments come first; where they would not fit they are spread over `processes`.
    """
    state = shape.parameters * STATE_BYTES
    if state > free:
        state //= processes
    return max(1, int((free - state) * USABLE / token_bytes(shape, recomputed)))


def micro_batch_rows(asked: int | None, rows: int, length: int, tokens: int = CPU_TOKENS) -> int:
    """As asked, or the largest divisor of a rank's `rows` with `tokens` at most: every micro-batch has one shape."""
    fitting = [size for size in range(1, rows + 1) if rows % size == 0 and size * length <= tokens]
    return asked or max(fitting, default=1)

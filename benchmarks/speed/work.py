"""The work that every training arm does: one model, one stream of rows. Needs numpy alone: peers read it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

EOS, BETAS, EPSILON, DECAY, CLIP, RATE = 0, (0.9, 0.95), 1e-8, 0.1, 1.0, 3e-4


@dataclass(frozen=True)
class Work:
    """A Llama model of `layers` blocks and rows of `length` tokens, `rows` of them a step, documents of about 200.

    head: width of an attention head; 32 as small models have it, large ones 64 or 128.
    """

    hidden: int
    layers: int
    vocabulary: int
    length: int
    rows: int
    head: int = 32

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def heads(self) -> int:
        return max(1, self.hidden // self.head)

    @property
    def intermediate(self) -> int:
        return self.hidden * 11 // 4

    @property
    def parameters(self) -> int:
        """Embedding (tied) and blocks; the norms are counted too."""
        block = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * block + self.hidden

    def config(self) -> dict[str, Any]:
        """As `baseModel.scratch.config` takes it."""
        return {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.length,
            "tie_word_embeddings": True,
        }


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

    def take(self, rows: np.ndarray) -> np.ndarray:
        """As the product's loader reads them."""
        taken: np.ndarray = self.tokens[rows]
        return taken


def step_rows(text: Text, work: Work, step: int) -> np.ndarray:
    """The rows of a step, one after another and round again; [rows, length + 1]."""
    first = step * work.rows
    return text.tokens[np.arange(first, first + work.rows) % text.rows]

"""The three models of the reproductions: Llama-shaped, about 0.5M, 2M and 6M parameters with a vocabulary of 2,048."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY = 2_048


@dataclass(frozen=True)
class Size:
    """One shape, and the peak learning rate that its base is trained with."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    peak: float

    @property
    def parameters(self) -> int:
        """Embeddings (tied) count once; norms: two a layer and the last."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return VOCABULARY * self.hidden + self.layers * layer + self.hidden

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "tie_word_embeddings": True,
        }


SIZES = {
    "0.5M": Size(96, 256, 3, 3, 3e-3),
    "2M": Size(160, 432, 5, 5, 2e-3),
    "6M": Size(256, 704, 7, 8, 1e-3),
}

"""Head and loss alone: the plain way, and as the product takes them."""

from __future__ import annotations

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

import torch  # isort: skip
from torch import nn

from rewarm_trainer.chunked_loss import ChunkedLoss


class Head:
    """Forward and backward of a head and its loss over `tokens` hidden states."""

    def __init__(self, way: str, hidden: int, vocabulary: int, tokens: int, bf16: bool) -> None:
        """`way`: plain, `plain, compiled`, chunked, or compiled (chunked, its kernel compiled)."""
        torch.manual_seed(1)
        self._bf16 = bf16
        self._head = nn.Linear(hidden, vocabulary, bias=False)
        self._hidden = torch.randn(1, tokens, hidden)
        self._labels = torch.randint(0, vocabulary, (1, tokens))
        self._weights = torch.full((1, tokens), 1.0 / tokens)
        is_plain = way.startswith("plain")
        self._loss = None if is_plain else ChunkedLoss(self._head, compiled=way == "compiled")
        self._cross_entropy = torch.compile(_cross_entropy, dynamic=False) if "compiled" in way else _cross_entropy

    def run(self, steps: int) -> float:
        """The loss."""
        loss = torch.zeros(())
        for _ in range(steps):
            self._head.weight.grad = None
            hidden = self._hidden.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                loss = self._objective(hidden)
            loss.backward()
        return float(loss)

    def _objective(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._loss is not None:
            return self._loss.weighted(hidden, self._labels, self._weights)[0]
        return self._cross_entropy(self._head(hidden), self._labels)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

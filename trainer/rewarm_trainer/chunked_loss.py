"""The loss of a large vocabulary without its logits: head and cross-entropy together, some tokens at a time.

    hidden ─┬─ head ─> logits of a chunk ─> nats, and in their place the gradient ─┬─> gradient of hidden
            └──────────────────────────────────────────────────────────────────────┴─> gradient of the head

The gradient is taken in the forward pass, while a chunk is there: no product is done twice, and at most one
chunk of logits exists. The weight of each label in the objective has to be known beforehand; training knows it.
Same numbers as the plain way at the same compute type: logits in that type, the rest in FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100
CHUNK_LOGITS = 1 << 27
"""Logits of a chunk. Smaller chunks add the head's gradient up more often, which costs more than it saves."""
HEAD_PARTS = 8
"""Parts in which the head's gradient is added up."""
CACHED_LOGITS = 1 << 21
"""Logits that go through the eager kernel together: what stays in a processor's caches between its passes."""

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def replace_by_gradient(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Nats of each label, [N] in FP32; `logits` [N, V] are overwritten by the gradient of sum(weights x nats).

    All but the labels' own places: those are `label_gradient`.
    """
    wide = logits.float()
    normaliser = torch.logsumexp(wide, -1, keepdim=True)
    valid = labels != IGNORED
    picked = wide.gather(-1, labels.clamp(min=0).unsqueeze(-1))
    logits.copy_(torch.exp(wide - normaliser) * torch.where(valid, weights, 0.0).unsqueeze(-1))
    return torch.where(valid, (normaliser - picked).squeeze(-1), 0.0)


def replace_in_rows(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The same without a compiler: a few rows at a time, so that each pass finds its numbers in the caches."""
    rows = max(1, CACHED_LOGITS // logits.shape[1])
    nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    valid = labels != IGNORED
    scale = torch.where(valid, weights, 0.0).unsqueeze(-1)
    places = labels.clamp(min=0).unsqueeze(-1)
    for at in range(0, len(logits), rows):
        some = slice(at, at + rows)
        logarithms = torch.log_softmax(logits[some], -1, dtype=torch.float32)
        nats[some] = -logarithms.gather(-1, places[some]).squeeze(-1)
        logits[some] = logarithms.exp_().mul_(scale[some])
    return torch.where(valid, nats, 0.0)


def label_gradient(logits: Tensor, labels: Tensor, weights: Tensor, nats: Tensor) -> None:
    """The gradient at the labels' own places: (p - 1) x weight."""
    gradient = torch.where(labels != IGNORED, torch.expm1(-nats) * weights, 0.0)
    # Not `scatter_`: on a CPU it makes an FP32 copy of all logits in BF16.
    logits[torch.arange(len(logits), device=logits.device), labels.clamp(min=0)] = gradient.to(logits.dtype)


def add_product(gradient: Tensor, logits: Tensor, hidden: Tensor) -> None:
    """gradient += logits^T hidden, a part of the vocabulary at a time: the product is never there as a whole.

    `gradient` is in FP32 whatever the weights are in: in BF16 it would be rounded once a chunk.
    """
    for part, columns in zip(gradient.chunk(HEAD_PARTS), logits.chunk(HEAD_PARTS, dim=1), strict=True):
        part += columns.t() @ hidden


def chunk_rows(tokens: int, vocabulary: int) -> int:
    """Rows of a chunk: all chunks but the last have one shape."""
    return max(1, min(tokens, CHUNK_LOGITS // vocabulary))


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor, kernel: Kernel) -> Any:
        device = hidden.device.type
        computed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            narrow, matrix = hidden.to(computed), head.to(computed)
            nats = torch.empty(len(hidden), device=hidden.device, dtype=torch.float32)
            hidden_gradient = torch.empty_like(narrow) if wants_hidden else None
            head_gradient: Tensor | None = None
            rows = chunk_rows(len(hidden), len(head))
            for at in range(0, len(hidden), rows):
                some = slice(at, at + rows)
                logits = narrow[some] @ matrix.t()
                nats[some] = kernel(logits, labels[some], weights[some])
                label_gradient(logits, labels[some], weights[some], nats[some])
                if hidden_gradient is not None:
                    torch.mm(logits, matrix, out=hidden_gradient[some])
                if at + rows >= len(hidden):
                    # Nobody needs it any more, and the most memory is taken below.
                    del matrix
                if wants_head:
                    if head_gradient is None:
                        head_gradient = torch.zeros_like(head, dtype=torch.float32)
                    add_product(head_gradient, logits, narrow[some])
        ctx.save_for_backward(hidden_gradient, head_gradient)
        ctx.hidden_type, ctx.head_type = hidden.dtype, head.dtype
        ctx.mark_non_differentiable(nats)
        return (nats * weights).sum(), nats

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> Any:
        hidden, head = ctx.saved_tensors
        if hidden is not None:
            hidden = hidden.to(ctx.hidden_type) * scale
        if head is not None:
            # Its own storage, used once: nothing of the head's size is made again.
            head = head.mul_(scale).to(ctx.head_type)
        return hidden, head, None, None, None


class ChunkedLoss:
    """Head and loss of one model. `compiled`: the kernel is compiled for the shape that it sees first."""

    def __init__(self, head: nn.Linear, *, compiled: bool) -> None:
        self._head = head
        self._kernel: Kernel = torch.compile(replace_by_gradient, dynamic=False) if compiled else replace_in_rows

    def weighted(self, hidden: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of weights x nats, nats of each label without a gradient).

        hidden: [B, S, H]; labels, weights: [B, S].
        """
        flat = hidden.flatten(0, 1), self._head.weight, labels.flatten(), weights.flatten()
        objective, nats = _WeightedNats.apply(*flat, self._kernel)
        return objective, nats.view_as(labels)


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's head where its logits are that head's product and nothing else; None where they are not.

    Asked of the model itself, with a few tokens: scaled, capped and biased logits differ from the product.
    """
    head, inner = model.get_output_embeddings(), model.base_model  # type: ignore[operator]
    if type(head) is not nn.Linear or head.bias is not None or inner is model:
        return None
    was_training = model.training
    model.eval()
    tokens = torch.arange(4, device=head.weight.device).remainder(len(head.weight)).unsqueeze(0)
    with torch.no_grad():
        asked = {"input_ids": tokens, "attention_mask": None, "use_cache": False}
        logits = model(**asked).logits
        same = torch.allclose(logits, head(inner(**asked).last_hidden_state), rtol=1e-4, atol=1e-5)
    model.train(was_training)
    return head if same else None

"""Every technique of speed that changes how numbers are rounded: the curve of losses stays the one without it.

Tolerances are of the loss of every update, in nats: 40 updates that bring a tiny model from 4.4 to below 2.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Trainer, batch_of, random_rows, tiny

from rewarm_trainer import chunked_loss

STEPS = 40
COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++"))), reason="compiling for a CPU needs a C++ compiler"
)
ROUNDING = 1e-4
"""Of FP32: another order of the same sums, carried on by 40 updates."""
OF_BF16 = 5e-2
"""8 bits of mantissa in every product."""


def curve(*, compiled: bool = False, chunks: int = 0, attention: str = "sdpa", **options: Any) -> np.ndarray:
    """Losses of training over and over on the same few batches; `chunks`: tokens of a chunk, 0 for whole logits."""
    torch._dynamo.reset()
    trainer = Trainer(tiny(), **options)
    trainer.model.set_attn_implementation(attention)
    if chunks:
        assert trainer.losses.chunk_loss(compiled=compiled)
    if compiled:
        trainer.losses.compile_blocks()
    batches = [batch_of(random_rows(8, seed)) for seed in range(2)]
    return np.array([trainer.apply(step, batches[step % 2], 1e-2).read().loss for step in range(STEPS)])


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    found = curve()
    assert found[0] > 4 > 2 > found[-1], "it learns, so that a wrong gradient would show"
    return found


TECHNIQUES = {
    "plain attention": ({"attention": "eager"}, ROUNDING),
    "micro-batches": ({"micro_rows": 2}, ROUNDING),
    "head and loss in chunks": ({"chunks": 16}, ROUNDING),
    "BF16": ({"precision": "BF16"}, OF_BF16),
    "BF16, head and loss in chunks": ({"precision": "BF16", "chunks": 16}, OF_BF16),
}
COMPILED = {
    "compiled": ({}, ROUNDING),
    "compiled, head and loss in chunks": ({"chunks": 16}, ROUNDING),
    "compiled, BF16, plain attention": ({"precision": "BF16", "attention": "eager"}, OF_BF16),
    "compiled, BF16, head and loss in chunks": ({"precision": "BF16", "chunks": 16}, OF_BF16),
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_keeps_the_curve(name: str, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", 16 * 50)
    options, tolerance = TECHNIQUES[name]
    assert np.abs(curve(**options) - plain).max() < tolerance


@COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compilation_keeps_the_curve(name: str, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", 16 * 50)
    options, tolerance = COMPILED[name]
    assert np.abs(curve(compiled=True, **options) - plain).max() < tolerance


def test_a_curve_shows_a_gradient_that_is_a_little_wrong(plain: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = chunked_loss.label_gradient

    def wrong(logits: Any, labels: Any, weights: Any, nats: Any) -> None:
        exact(logits, labels, weights * 0.98, nats)

    monkeypatch.setattr(chunked_loss, "label_gradient", wrong)
    assert np.abs(curve(chunks=16) - plain).max() > 100 * ROUNDING

"""Rows of a micro-batch: divisors, and what fits into a device's memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer.micro_batch import (
    LEAST_BYTES,
    LOGIT_BYTES,
    STATE_BYTES,
    Shape,
    micro_batch_rows,
    token_bytes,
    tokens_that_fit,
)

GIBIBYTE = 1 << 30
LLAMA = {"hidden_size": 2048, "num_hidden_layers": 20, "intermediate_size": 5632}
BILLION = Shape.of(LLAMA, 1_100_000_000, 32_000)


def test_micro_batches_divide_a_ranks_rows() -> None:
    assert micro_batch_rows(4, 12, 32) == 4
    assert micro_batch_rows(None, 12, 2048) == 4
    assert micro_batch_rows(None, 7, 100_000) == 1


@given(st.integers(1, 64), st.integers(1, 5000), st.integers(1, 100_000))
def test_auto_divides_and_fits_or_is_one(rows: int, length: int, tokens: int) -> None:
    found = micro_batch_rows(None, rows, length, tokens)
    assert rows % found == 0
    assert found == 1 or found * length <= tokens


def test_a_deep_model_gets_fewer_rows_than_its_memory_seems_to_have_place_for() -> None:
    rows = tokens_that_fit(139 * GIBIBYTE, BILLION) // 4096
    assert 4 <= rows <= 20, "29 rows of 20 blocks of 2,048 keep more than there is"
    assert tokens_that_fit(139 * GIBIBYTE, BILLION, recomputed="Full") > 4 * 4096 * rows


@given(st.integers(1, 200), st.sampled_from(["None", "Selective", "Full"]))
def test_what_fits_never_takes_more_than_there_is(gibibytes: int, recomputed: str) -> None:
    free = gibibytes * GIBIBYTE
    tokens = tokens_that_fit(free, BILLION, processes=8, recomputed=recomputed)
    state = BILLION.parameters * STATE_BYTES
    held = (state if state <= free else state // 8) + tokens * token_bytes(BILLION, recomputed)
    assert held <= free or tokens == 1


def test_every_family_names_its_sizes() -> None:
    gpt2 = Shape.of({"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None}, 124_000_000, 50_257)
    assert (gpt2.hidden, gpt2.layers, gpt2.intermediate) == (768, 12, 3072)
    assert gpt2.heads == 12 * 12 == Shape.of({"num_attention_heads": 12, "num_hidden_layers": 12}, 1, 1).heads
    unknown = Shape.of({}, 1, 50_000)
    assert (unknown.heads, token_bytes(unknown)) == (0, LEAST_BYTES + LOGIT_BYTES * 50_000)
    experts = Shape.of({**LLAMA, "num_experts_per_tok": 2}, 1, 1)
    assert experts.intermediate == 2 * BILLION.intermediate

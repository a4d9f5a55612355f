"""Inputs, labels and positions of a batch, by the definition of a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rewarm_trainer import batches
from rewarm_trainer.batches import Loader, assemble, document_positions
from rewarm_trainer.order import Draw, Order, Phase

EOS = 0


class Table:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows]


def draws(sources: str) -> list[Draw]:
    """One row after the other, row i of a source at place i."""
    places = {name: np.flatnonzero(np.array(list(sources)) == name) for name in sorted(set(sources))}
    return [Draw(name, found, np.zeros_like(found), found) for name, found in places.items()]


rows_of_tokens = arrays.arrays(np.int64, st.tuples(st.integers(1, 4), st.just(13)), elements=st.integers(0, 3))


@given(rows_of_tokens)
def test_positions_restart_after_every_end_of_document(rows: np.ndarray) -> None:
    for inputs, positions in zip(rows, document_positions(rows, EOS), strict=True):
        expected, position = [], 0
        for token in inputs:
            expected.append(position)
            position = 0 if token == EOS else position + 1
        assert positions.tolist() == expected


@given(rows_of_tokens)
def test_labels_are_the_next_tokens_but_for_a_documents_first(rows: np.ndarray) -> None:
    batch = assemble(draws("a" * len(rows)), {"a": Table(rows)}, {"a": 0}, eos=EOS, masking=True)
    assert (batch.inputs == rows[:, :-1]).all()
    ignored = batch.labels == -100
    assert (ignored == (rows[:, :-1] == EOS)).all()
    assert (batch.labels[~ignored] == rows[:, 1:][~ignored]).all()
    assert batch.valid == (~ignored).sum()


@given(rows_of_tokens)
def test_without_masking_every_token_is_a_label(rows: np.ndarray) -> None:
    batch = assemble(draws("a"), {"a": Table(rows)}, {"a": 0}, eos=EOS, masking=False)
    assert batch.positions is None
    assert batch.valid == 12


@given(rows_of_tokens, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_row_cut_into_pieces_keeps_every_token_and_label(rows: np.ndarray, length: int) -> None:
    addresses = draws(("ab" * len(rows))[: len(rows)])
    tables, numbers = {"a": Table(rows), "b": Table(rows)}, {"a": 0, "b": 1}
    whole = assemble(addresses, tables, numbers, eos=EOS, masking=True)
    cut = assemble(addresses, tables, numbers, eos=EOS, masking=True, sequence_length=length)
    assert cut.inputs.shape == (len(rows) * cut.pieces, length)
    assert cut.pieces == 12 // length
    for name in ("inputs", "labels"):
        assert (getattr(cut, name).reshape(len(rows), 12) == getattr(whole, name)).all()
    assert cut.valid == whole.valid
    assert (cut.sources.reshape(len(rows), -1) == whole.sources[:, None]).all()
    assert cut.positions is not None
    assert (cut.positions == document_positions(cut.inputs, EOS)).all()
    assert (cut.positions[:, 0] == 0).all()


def test_the_loader_cuts_rows_in_the_phase_that_asks_for_it() -> None:
    table = {"new": Table(np.arange(40 * 9).reshape(40, 9))}
    phases = [Phase(0, 0, name="short", sequence_length=4), Phase(2, 0, "planned", name="long")]
    assert [Phase.from_json(each.to_json()) for each in phases] == phases
    order = Order(phases, seed=1, rows_per_step=4, sizes={"new": 40}, corpus={"new": 1}, replay={})
    loader = Loader(table, eos=-1, masking=True, rank=0, world=1, rows=4)
    assert [loader.batch(order, step).inputs.shape for step in range(4)] == [(8, 4), (8, 4), (4, 8), (4, 8)]
    loader.close()


def test_two_ranks_read_what_one_reads() -> None:
    table = {"new": Table(np.arange(40 * 9).reshape(40, 9)), "old": Table(np.arange(30 * 9).reshape(30, 9) + 1000)}
    order = Order(
        [Phase(0, 0.25)], seed=1, rows_per_step=8, sizes={"new": 40, "old": 30}, corpus={"new": 1}, replay={"old": 1}
    )
    one = Loader(table, eos=-1, masking=True, rank=0, world=1, rows=8)
    two = [Loader(table, eos=-1, masking=True, rank=rank, world=2, rows=8) for rank in range(2)]
    for step in (0, 1, 2, 7):
        whole = one.batch(order, step)
        halves = [loader.batch(order, step) for loader in two]
        assert (np.concatenate([half.inputs for half in halves]) == whole.inputs).all()
        assert (np.concatenate([half.sources for half in halves]) == whole.sources).all()
    for loader in (one, *two):
        loader.close()


@pytest.mark.parametrize("world", [1, 2])
def test_batches_read_ahead_are_those_read_alone(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through phases, jumps back and forth, and a new order; lots of a few batches, so that they end on the way."""
    monkeypatch.setattr(batches, "AHEAD", 3 * 4 * 8)
    table = {"new": Table(np.arange(40 * 9).reshape(40, 9)), "old": Table(np.arange(30 * 9).reshape(30, 9) + 1000)}

    def order(*phases: Phase) -> Order:
        return Order(
            phases, seed=1, rows_per_step=4, sizes={"new": 40, "old": 30}, corpus={"new": 1}, replay={"old": 1}
        )

    def loader(ahead: bool) -> Loader:
        return Loader(table, eos=7, masking=True, rank=world - 1, world=world, rows=4, ahead=ahead)

    first = order(Phase(0, 0.25), Phase(5, 0.5, sequence_length=4))
    second = order(Phase(0, 0.25), Phase(14, 0.75, "diverged"))
    asked = [*((first, step) for step in (*range(12), 3, 4, 5, 20, 21)), *((second, step) for step in range(12, 18))]
    ahead, alone = loader(True), loader(False)
    for plan, step in asked:
        expected, found = alone.batch(plan, step), ahead.batch(plan, step)
        assert not alone._worker._threads, "nobody reads beside"
        for name in ("inputs", "labels", "positions", "sources"):
            assert (getattr(found, name) == getattr(expected, name)).all()
        assert (found.valid, found.pieces, len(found)) == (expected.valid, expected.pieces, len(expected))
    ahead.close()
    alone.close()

"""Ascending phases: the same rows as shuffled, the best last, whatever happens on the way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer.ascending import Ascending
from rewarm_trainer.order import Order, Phase

SIZES = {"new": 50, "other": 40, "old": 30}
SCORES = {
    name: np.random.default_rng(number).integers(0, 20, size) / 4 for number, (name, size) in enumerate(SIZES.items())
}


def order_of(log: list[Phase]) -> Order:
    return Order(
        log,
        seed=5,
        rows_per_step=8,
        sizes=SIZES,
        corpus={"new": 3, "other": 1},
        replay={"old": 1},
        ascending=Ascending(lambda source, column: SCORES[source]),
    )


def drawn(order: Order, first: int, last: int) -> dict[str, list[tuple[int, int]]]:
    """(epoch, row) by source, in order."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in SIZES}
    for step in range(first, last):
        for address in order.rows(step):
            found[address.source].append((address.epoch, address.row))
    return found


@given(st.integers(0, 12), st.integers(1, 12), st.sampled_from([0.0, 0.25]))
def test_an_ascending_phase_takes_the_rows_of_a_shuffled_one_by_score(before: int, steps: int, ratio: float) -> None:
    end = before + steps
    last = Phase(before, ratio, "planned", name="end", order_by="score", until=end)
    log = [last] if before == 0 else [Phase(0, ratio, name="main"), last]
    shuffled = [Phase(each.first_step, ratio, name=each.name) for each in log]
    ascending, plain = drawn(order_of(log), before, end), drawn(order_of(shuffled), before, end)
    assert {name: Counter(rows) for name, rows in ascending.items()} == {n: Counter(rows) for n, rows in plain.items()}
    for name in ("new", "other"):
        scores = [SCORES[name][row] for _, row in ascending[name]]
        assert scores == sorted(scores)
    assert ascending["old"] == plain["old"], "replay stays shuffled"


def test_after_the_phase_the_source_goes_on_where_it_would_have_stood() -> None:
    sorted_first = [Phase(0, 0.25, name="a", order_by="score", until=3), Phase(3, 0.25, name="b")]
    plain = [Phase(0, 0.25, name="a"), Phase(3, 0.25, name="b")]
    assert drawn(order_of(sorted_first), 3, 6) == drawn(order_of(plain), 3, 6)


def test_a_rollback_passes_over_rows_and_goes_on_by_score() -> None:
    phase = Phase(0, 0.0, name="a", order_by="score", until=4)
    log = [phase, Phase(2, 0.0, "diverged", {"new": 6, "other": 2}, name="a", order_by="score", until=4)]
    whole, jumped = drawn(order_of([phase]), 0, 4), drawn(order_of(log), 0, 4)
    # Two steps, one step passed over, the fourth; then the window is used up and a step of shuffled rows follows.
    assert jumped["new"][:12] == whole["new"][:12]
    assert jumped["new"][12:18] == whole["new"][18:24]
    assert set(jumped["new"][18:]).isdisjoint(whole["new"])


def test_a_ranks_slice_and_a_fresh_process_find_the_same_rows() -> None:
    log = [Phase(0, 0.25, name="a", order_by="score", until=9)]
    order = order_of(log)
    whole = [order.rows(step) for step in range(9)]
    for step in (8, 3, 0):
        again = order_of(log)
        assert again.rows(step, 0, 4) + again.rows(step, 4, 4) == whole[step]


def test_counting_needs_no_scores_but_rows_do() -> None:
    log = [Phase(0, 0.25, name="a", order_by="score", until=9)]
    bare = Order(log, seed=5, rows_per_step=8, sizes=SIZES, corpus={"new": 3, "other": 1}, replay={"old": 1})
    assert bare.trained(9) == order_of(log).trained(9)
    with pytest.raises(ValueError, match="score"):
        bare.rows(0)


def test_the_phase_log_keeps_the_order() -> None:
    phase = Phase(3, 0.25, "planned", name="a", order_by="score", until=9)
    assert Phase.from_json(phase.to_json()) == phase
    assert not {"order_by", "until"} & Phase(0, 0.25).to_json().keys()

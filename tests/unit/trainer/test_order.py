"""The rows of a run as a function of phases, seed and step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer.order import Order, Phase

SIZES = {"new": 50, "old": 30, "older": 20}


def make(phases: list[Phase], rows_per_step: int = 8, seed: int = 5) -> Order:
    return Order(
        phases, seed=seed, rows_per_step=rows_per_step, sizes=SIZES, corpus={"new": 1}, replay={"old": 3, "older": 1}
    )


phase_logs = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5])), min_size=1, max_size=4
).map(lambda pairs: [Phase(sum(p[0] for p in pairs[:i]), pair[1]) for i, pair in enumerate(pairs)])


@given(phase_logs, st.integers(0, 40))
def test_sums_of_a_prefix_are_what_its_steps_drew(phases: list[Phase], extra: int) -> None:
    steps = phases[-1].first_step + extra
    order = make(phases)
    drawn = Counter(address.source for step in range(steps) for address in order.rows(step))
    assert order.trained(steps) == {name: drawn[name] for name in SIZES}
    assert order.cursors(steps) == order.trained(steps)
    assert sum(order.trained(steps).values()) == steps * 8


@given(phase_logs, st.integers(0, 30))
def test_no_row_of_an_epoch_comes_twice_even_across_phases(phases: list[Phase], extra: int) -> None:
    order = make(phases)
    seen = [address for step in range(phases[-1].first_step + extra) for address in order.rows(step)]
    assert len(seen) == len(set(seen))


@given(st.integers(0, 60), st.sampled_from([1, 2, 4, 8]))
def test_ranks_take_contiguous_slices_of_one_global_batch(step: int, world: int) -> None:
    order = make([Phase(0, 0.25)])
    slices = [order.rows(step, rank * (8 // world), 8 // world) for rank in range(world)]
    assert [row for part in slices for row in part] == order.rows(step)


@given(phase_logs, st.integers(0, 40), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.data())
def test_several_steps_at_once_are_those_steps(
    phases: list[Phase], step: int, most: int, world: int, data: st.DataObject
) -> None:
    order, own = make(phases), 8 // world
    first = own * data.draw(st.integers(0, world - 1))
    steps = order.steps_left(step, most)
    found = {}
    for draw in order.draws(step, steps=steps, first=first, count=own):
        for place, epoch, row in zip(*(each.tolist() for each in draw[1:]), strict=True):
            found[place] = (draw.source, epoch, row)
    assert [found[place] for place in range(steps * own)] == [
        tuple(row) for number in range(step, step + steps) for row in order.rows(number, first, own)
    ]


def test_steps_read_at_once_are_of_one_phase() -> None:
    order = make([Phase(0, 0.25), Phase(3, 0.5)])
    assert [order.steps_left(step, 8) for step in range(5)] == [3, 2, 1, 8, 8]
    with pytest.raises(ValueError, match="steps 1 to 3 are not of one phase"):
        order.draws(1, steps=3)


def test_a_changed_ratio_starts_its_tree_at_zero_and_cursors_carry_on() -> None:
    order = make([Phase(0, 0.25), Phase(3, 0.5)])
    assert order.cursors(3) == {"new": 18, "old": 5, "older": 1}
    assert Counter(address.source for address in order.rows(3)) == {"new": 4, "old": 3, "older": 1}
    assert (order.ratio(2), order.ratio(3)) == (0.25, 0.5)


def test_skipped_rows_are_taken_but_not_trained() -> None:
    order = make([Phase(0, 0.0), Phase(2, 0.0, "diverged", {"new": 24})])
    assert order.trained(3) == {"new": 24, "old": 0, "older": 0}
    assert order.cursors(3)["new"] == 48
    plain = make([Phase(0, 0.0)])
    assert order.rows(2) == plain.rows(5), "three steps of rows were passed over"


def test_a_phase_that_never_trained_is_replaced_and_keeps_its_skips() -> None:
    order = make([Phase(0, 0.25), Phase(4, 0.25, "diverged", {"new": 8})])
    assert order.extended(Phase(4, 0.5, "forgetting")) == [
        Phase(0, 0.25),
        Phase(4, 0.5, "forgetting", {"new": 8}),
    ]


@pytest.mark.parametrize("phases", [[], [Phase(2, 0.1)], [Phase(0, 0.1), Phase(5, 0.1), Phase(4, 0.1)]])
def test_a_broken_phase_log_is_refused(phases: list[Phase]) -> None:
    with pytest.raises(ValueError, match="phase"):
        make(phases)


def test_phase_survives_json() -> None:
    phase = Phase(7, 0.3, "forgetting", {"new": 2})
    assert Phase.from_json(phase.to_json()) == phase
    assert "weights" not in phase.to_json(), "as states were written before phases had weights"
    weighted = Phase(7, 0.3, "forgetting", {"new": 2}, {"old": 1, "older": 2.5})
    assert Phase.from_json(weighted.to_json()) == weighted


def test_a_phase_brings_its_weights_and_the_next_one_without_any_has_the_runs_own() -> None:
    order = make([Phase(0, 0.5), Phase(2, 0.5, weights={"old": 1, "older": 3}), Phase(4, 0.5)])
    own, other = {"old": 6, "older": 2}, {"old": 2, "older": 6}
    rows = [{name: count for name, count in order.trained(step).items() if name != "new"} for step in (2, 4, 6)]
    assert rows == [
        own,
        {name: own[name] + other[name] for name in own},
        {name: 2 * own[name] + other[name] for name in own},
    ]
    assert order.trained(6)["new"] == 24
    assert order.phase(3).weights == {"old": 1, "older": 3}


def test_a_weight_of_zero_leaves_a_source_out() -> None:
    order = make([Phase(0, 0.5, weights={"old": 1, "older": 0})])
    assert order.trained(5) == {"new": 20, "old": 20, "older": 0}


@pytest.mark.parametrize("weights", [{"old": 1}, {"unknown": 1}, {"old": 0, "older": 0}, {"old": -1, "older": 1}])
def test_weights_that_make_no_mixture_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        make([Phase(0, 0.5, weights=weights)])


def test_a_replaced_phase_keeps_the_weights_of_its_successor() -> None:
    order = make([Phase(0, 0.25), Phase(4, 0.25, "diverged", {"new": 8})])
    after = Phase(4, 0.25, "controller", weights={"old": 2, "older": 1})
    assert order.extended(after)[-1] == Phase(4, 0.25, "controller", {"new": 8}, {"old": 2, "older": 1})

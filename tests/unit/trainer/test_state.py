"""The state of a run: its sums are asserted on load."""

from __future__ import annotations

import pytest

from rewarm_api.errors import DataError
from rewarm_api.snapshot import Plan
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState, best_step

PLAN = Plan(
    requested_tokens=800,
    tokens_per_step=80,
    rows_per_step=8,
    steps=10,
    tokens=800,
    segments=(),
    evaluation_every=80,
    checkpoint_every=80,
    trunk=False,
)


def order_of(phases: list[Phase]) -> Order:
    return Order(phases, seed=1, rows_per_step=8, sizes={"new": 40, "old": 30}, corpus={"new": 1}, replay={"old": 1})


def trained(steps: int) -> tuple[TrainState, Order]:
    order = order_of([Phase(0, 0.25)])
    state = TrainState(experiment="sha256:x", seed=1)
    state.advance(order, PLAN, steps)
    return state, order


def test_a_state_survives_json_and_adds_up() -> None:
    state, order = trained(5)
    again = TrainState.from_json(state.to_json())
    assert again == state
    again.check(order_of(again.phase_log()), PLAN, "here")
    assert again.replayed({"old"}) == 10
    assert order.ratio(4) == 0.25


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("tokens", 401, "tokens"),
        ("rows", {"new": 31, "old": 9}, "rows by source"),
        ("rows", {"new": 31, "old": 10}, "rows of all sources"),
        ("cursors", {"new": 30, "old": 11}, "cursors"),
    ],
)
def test_an_edited_state_is_refused_and_names_what_does_not_add_up(field: str, value: object, named: str) -> None:
    state, order = trained(5)
    setattr(state, field, value)
    with pytest.raises(DataError, match=f"does not add up: {named} found"):
        state.check(order, PLAN, "checkpoint")


def test_an_edited_phase_log_does_not_fit_the_rows() -> None:
    state, _ = trained(5)
    state.phases[0]["ratio"] = 0.5
    with pytest.raises(DataError, match="does not add up"):
        state.check(order_of(state.phase_log()), PLAN, "checkpoint")


def look(step: int, *means: float) -> dict[str, object]:
    return {"step": step, "sets": {f"s{i}": {"delta": {"mean": mean}} for i, mean in enumerate(means)}}


def test_best_is_the_committed_step_with_the_lowest_mean_delta_over_all_sets() -> None:
    looks = [{"step": 0, "sets": {"s0": {"delta": None}}}, look(2, 0.5, -0.1), look(4, 0.1, -0.5), look(6, -0.9, 0.1)]
    state = {"evaluations": looks}
    assert best_step(state, [2, 4, 6]) == 6
    assert best_step(state, [2, 4]) == 4
    assert best_step(state, []) is None

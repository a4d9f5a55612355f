"""Planned phases: what enters the log and when, what decisions leave behind, and that the counts add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import plan_of

from rewarm_api.snapshot import Plan, PlannedPhase
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.phases import PhasedMixture, beginning, opening, planned_log, requested_ratio

SIZES = {"new": 50, "old": 30, "older": 20}
OWN = {"corpus": {"new": 1}, "replay": {"old": 3, "older": 1}}


def plan(*phases: tuple[str, int, float | None, dict[str, float] | None]) -> Plan:
    planned, first = [], 0
    for name, steps, ratio, weights in phases:
        planned.append(PlannedPhase(name=name, first_step=first, steps=steps, ratio=ratio, weights=weights))
        first += steps
    return plan_of(first).model_copy(update={"phases": tuple(planned)})


def order_of(log: list[Phase]) -> Order:
    return Order(log, seed=5, rows_per_step=8, sizes=SIZES, **OWN)


PLAN = plan(("main", 6, None, None), ("end", 2, 0.5, {"old": 0, "older": 1}))


def test_a_run_without_phases_has_one() -> None:
    assert planned_log(plan_of(4), 0.25) == [Phase(0, 0.25)]
    assert beginning(plan_of(4), [Phase(0, 0.25)], 2, 0.25) is None
    assert requested_ratio(plan_of(4), 0.25) == 0.25


def test_a_phase_keeps_its_sequence_length_through_decisions() -> None:
    own = PLAN.phases[0].model_copy(update={"sequence_length": 64}), PLAN.phases[1]
    cut = PLAN.model_copy(update={"phases": own})
    assert [phase.sequence_length for phase in planned_log(cut, 0.25)] == [64, 0]
    assert opening(cut, 0.25).sequence_length == 64


def test_a_phase_enters_the_log_once_at_its_first_step() -> None:
    log = [opening(PLAN, 0.25)]
    assert log == [Phase(0, 0.25, name="main")]
    found = [beginning(PLAN, log, step, 0.25) for step in range(8)]
    assert [step for step, phase in enumerate(found) if phase] == [6]
    end = Phase(6, 0.5, "planned", weights={"old": 0, "older": 1}, name="end")
    assert found[6] == end
    assert beginning(PLAN, [*log, end], 6, 0.25) is None
    assert planned_log(PLAN, 0.25) == [*log, end]
    assert requested_ratio(PLAN, 0.25) == (6 * 0.25 + 2 * 0.5) / 8


def test_a_rollback_to_the_border_does_not_lose_the_phase() -> None:
    log = [opening(PLAN, 0.25)]
    order = order_of(log)
    diverged = Phase(6, 0.25, "diverged", {"new": 12, "old": 4}, name="main")
    log = order.extended(diverged)
    due = beginning(PLAN, log, 6, 0.25)
    assert due is not None
    assert order_of(log).extended(due)[-1] == Phase(6, 0.5, "planned", {"new": 12, "old": 4}, due.weights, "end")


@pytest.mark.parametrize(("ratio", "expected"), [(None, 0.4), (0.1, 0.1)])
def test_what_a_decision_raised_stays_until_a_phase_names_it(ratio: float | None, expected: float) -> None:
    three = plan(("a", 4, 0.2, None), ("b", 4, ratio, None))
    log = [opening(three, 0.3), Phase(2, 0.4, "forgetting", name="a")]
    phase = beginning(three, log, 4, 0.3)
    assert phase is not None
    assert phase.ratio == expected
    undisturbed = beginning(three, log[:1], 4, 0.3)
    assert undisturbed is not None
    assert undisturbed.ratio == (0.3 if ratio is None else ratio), "the run's own, not the phase's before it"


def test_weights_of_a_controller_stay_and_those_of_a_phase_end_with_it() -> None:
    two = plan(("a", 4, None, {"old": 1, "older": 1}), ("b", 4, None, None))
    controlled = [opening(two, 0.25), Phase(2, 0.25, "controller", weights={"old": 1, "older": 9})]
    after = [beginning(two, log, 4, 0.25) for log in (controlled, controlled[:1])]
    assert [phase.weights for phase in after if phase] == [{"old": 1, "older": 9}, None]


logs = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from([0.0, 0.1, 0.25, 0.5]),
        st.none() | st.fixed_dictionaries({"old": st.integers(0, 5), "older": st.integers(1, 5)}),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda parts: [
        Phase(sum(part[0] for part in parts[:number]), ratio, weights=weights)
        for number, (_, ratio, weights) in enumerate(parts)
    ]
)


@given(logs, st.integers(0, 40))
def test_the_plan_counts_what_the_order_draws(log: list[Phase], extra: int) -> None:
    steps = log[-1].first_step + extra
    mixture = PhasedMixture(log, OWN["corpus"], OWN["replay"], 8)
    assert mixture.counts(steps * 8) == order_of(log).trained(steps)
    before = [mixture.counts(rows) for rows in range(steps * 8 + 1)]
    assert all(sum(counts.values()) == rows for rows, counts in enumerate(before))

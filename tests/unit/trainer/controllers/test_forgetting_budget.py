"""The forgetting budget on a plant: it keeps its band and its bounds, moves both ways, sits out the stability gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import plan_of

from rewarm_api.snapshot import Role
from rewarm_trainer import marks
from rewarm_trainer.controllers.forgetting_budget import AIM, FLOOR, ForgettingBudget
from rewarm_trainer.controllers.protocol import (
    Decision,
    Progress,
    SetHistory,
    SetLook,
    highest_ratio,
    significant_below,
)
from rewarm_trainer.order import Phase
from rewarm_trainer.statistics import Delta

PLAN = plan_of(400, evaluate=20)  # warm-up to step 100, looks every 5 % and densely at first
BUDGET = 0.02
ROWS = PLAN.rows_per_step


@dataclass
class Plant:
    """A model that forgets: forgetting runs towards `strength` x ratio^-`power` with a time constant of `lag` steps,
    under a stability gap of `gap` nats that has gone after a few of them. `half`: half the width of an interval."""

    strength: float
    power: float = 0.7
    lag: float = 40.0
    gap: float = 0.3
    half: float = 0.001
    noise: Callable[[int], float] = lambda step: 0.0
    forgetting: float = 0.0

    def step(self, number: int, ratio: float) -> float:
        towards = self.strength * max(ratio, 1e-3) ** -self.power
        self.forgetting += (towards - self.forgetting) / self.lag
        return self.forgetting + self.gap * (number / 5) * math.exp(1 - number / 5) + self.noise(number)


@dataclass
class Run:
    """A run of numbers under the controller."""

    plant: Plant
    controller: ForgettingBudget
    ratio: float = 0.25
    documents: int = 100
    allowed: int = 10**9
    phases: list[Phase] = field(default_factory=list)
    looks: list[SetLook] = field(default_factory=list)
    decisions: list[dict[str, object]] = field(default_factory=list)
    trained: float = 0.0

    def drive(self) -> Run:
        self.phases = [Phase(0, self.ratio)]
        for step in range(1, PLAN.steps + 1):
            self.trained += self.phases[-1].ratio * ROWS
            found = self.plant.step(step, self.phases[-1].ratio)
            if not marks.is_evaluation_step(PLAN, step, [phase.first_step for phase in self.phases]):
                continue
            half = self.plant.half
            delta = Delta(found, found - half, found + half, 0.01, documents=self.documents)
            self.looks.append(SetLook(step * PLAN.tokens_per_step, 3.0 + found, delta))
            decision = self.decide(step)
            if decision is not None:
                self.decisions.append({"what": decision.what, "step": step, "tokens": self.looks[-1].tokens})
                if decision.ratio is not None:
                    self.phases.append(Phase(step, decision.ratio, "forgettingBudget"))
        return self

    def decide(self, step: int) -> Decision | None:
        left = {"old": int(self.allowed - self.trained)}
        progress = Progress(step, PLAN, self.phases, {"new": 1.0}, {"old": 1.0}, left, self.decisions)
        return self.controller(progress, {"old": SetHistory(Role.RETAINED, self.looks)})

    @property
    def ratios(self) -> list[float]:
        return [phase.ratio for phase in self.phases]

    @property
    def moves(self) -> list[object]:
        return [decision["what"] for decision in self.decisions]


def controller(minimum: float = 0.05, maximum: float = 0.5) -> ForgettingBudget:
    return ForgettingBudget(BUDGET, minimum, maximum)


def strength_for(ratio: float, power: float = 0.7, forgetting: float = AIM * BUDGET) -> float:
    """The plant whose forgetting settles at `forgetting` under this ratio."""
    return forgetting * ratio**power


@pytest.mark.parametrize("wanted", [0.06, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("start", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("power", [0.5, 0.7, 1.0])
def test_forgetting_ends_in_its_band_wherever_the_ratio_starts(wanted: float, start: float, power: float) -> None:
    run = Run(Plant(strength_for(wanted, power), power), controller(), start).drive()
    assert FLOOR * BUDGET * 0.9 <= run.plant.forgetting <= BUDGET * 1.1, (run.ratios, run.plant.forgetting)
    assert all(0.05 <= ratio <= 0.5 for ratio in run.ratios)
    assert len(run.phases) <= 5, "it settles, it does not hunt"


def test_the_ratio_moves_both_ways_when_the_text_changes() -> None:
    plant = Plant(strength_for(0.5))
    run = Run(plant, controller())
    drive, step = run.drive, plant.step

    def easier(number: int, ratio: float) -> float:
        plant.strength = strength_for(0.5 if number < 200 else 0.08)
        return step(number, ratio)

    plant.step = easier  # type: ignore[method-assign]
    drive()
    assert "ReplayRaised" in run.moves
    assert "ReplayLowered" in run.moves
    assert max(run.ratios) > 0.3
    assert run.ratios[-1] < 0.15


def test_no_panic_in_the_stability_gap() -> None:
    run = Run(Plant(strength_for(0.25), gap=2.0, lag=10), controller()).drive()
    early = [look for look in run.looks if look.tokens < PLAN.tokens // 10]
    assert max(look.delta.mean for look in early if look.delta) > 1.0, "the gap was there to be seen"
    assert run.ratios == [0.25], "and it was sat out"
    strong = Run(Plant(strength_for(0.4), gap=2.0), controller()).drive()
    assert all(phase.first_step > 100 for phase in strong.phases[1:]), "nothing before the warm-up's end"


def test_changes_are_a_tenth_of_the_plan_apart() -> None:
    run = Run(Plant(strength_for(0.5), 0.4), controller(0.01, 0.9), 0.01).drive()
    starts = [phase.first_step for phase in run.phases]
    assert len(starts) > 3
    assert all(later - earlier >= PLAN.steps // 10 for earlier, later in pairwise(starts))


def test_noise_within_the_intervals_moves_nothing() -> None:
    noisy = Plant(strength_for(0.25), half=0.012, noise=lambda step: 0.01 * math.sin(7.0 * step))
    assert Run(noisy, controller()).drive().ratios == [0.25]


def test_a_bound_in_the_way_is_said_once() -> None:
    run = Run(Plant(1.0), controller()).drive()
    assert run.ratios[-1] == 0.5
    assert run.moves.count("ReplayHeld") == 1
    calm = Run(Plant(0.0), controller()).drive()
    assert calm.ratios[-1] == 0.05
    assert set(calm.moves) == {"ReplayLowered"}, "that there is nothing left to lower is no news"


def test_replay_never_repeats_beyond_its_limit() -> None:
    allowed = int(0.3 * PLAN.steps * ROWS)
    run = Run(Plant(1.0), controller(maximum=0.9), 0.25, allowed=allowed).drive()
    assert run.ratios[-1] > 0.25
    assert run.trained <= allowed
    assert run.trained > 0.98 * allowed, "and all of it was used"
    assert run.moves.count("ReplayHeld") == 1


def test_too_few_documents_steer_nothing_and_are_said_once() -> None:
    run = Run(Plant(1.0), controller(), documents=29).drive()
    assert run.ratios == [0.25]
    assert run.moves == ["ReplayHeld"]


def test_forgetting_that_comes_back_by_itself_is_left_alone() -> None:
    falling = Plant(strength_for(0.25), forgetting=0.1, gap=0.0, lag=50)
    run = Run(falling, controller()).drive()
    seen = [look for look in run.looks if look.tokens > 110 * PLAN.tokens_per_step]
    assert any(look.delta.low > BUDGET for look in seen if look.delta), "it was above the budget when it could act"
    assert run.ratios == [0.25]


def test_the_worst_set_decides_and_all_must_be_low_to_lower() -> None:
    def look(tokens: int, mean: float) -> SetLook:
        return SetLook(tokens, 3.0, Delta(mean, mean - 0.001, mean + 0.001, 0.01, documents=50))

    def decide(**means: float) -> Decision | None:
        at = [step * PLAN.tokens_per_step for step in (200, 220)]
        losses = {name: SetHistory(Role.RETAINED, [look(t, mean) for t in at]) for name, mean in means.items()}
        losses["new"] = SetHistory(Role.NEW, [look(t, 5.0) for t in at])
        progress = Progress(220, PLAN, [Phase(0, 0.2)], {"new": 1}, {"a": 1, "b": 1}, {"a": 10**6, "b": 10**6})
        return controller()(progress, losses)

    raised = decide(a=0.001, b=0.03)
    assert raised is not None
    assert (raised.what, raised.ratio) == ("ReplayRaised", 0.4)
    assert "b +0.0300 (95 % +0.0290 to +0.0310)" in raised.why
    assert decide(a=0.001, b=0.012) is None
    lowered = decide(a=0.001, b=0.006)
    assert lowered is not None
    assert (lowered.what, lowered.ratio) == ("ReplayLowered", 0.1)
    assert lowered.facts == {"from": 0.2, "to": 0.1}


def test_from_nothing_a_raise_starts_at_one_percent() -> None:
    run = Run(Plant(strength_for(0.1)), controller(0.0, 0.5), 0.0).drive()
    assert run.ratios[:2] == [0.0, 0.02]


@given(
    forgetting=st.lists(st.floats(-0.5, 2.0), min_size=2, max_size=30),
    start=st.floats(0.06, 0.45),
    allowed=st.integers(900, 10**5),
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_seen_the_bounds_hold(forgetting: Sequence[float], start: float, allowed: int) -> None:
    plant = replace(Plant(0.0), gap=0.0)
    values = iter(forgetting * 400)
    plant.step = lambda number, ratio: next(values)  # type: ignore[method-assign]
    run = Run(plant, controller(), start, allowed=allowed).drive()
    assert all(0.05 <= ratio <= 0.5 for ratio in run.ratios if ratio != start) or run.trained + 2 * ROWS > allowed * 0.9
    rises = [new > old for old, new in pairwise(run.ratios)]
    assert not any(rises) or run.trained <= max(allowed, start * ROWS * PLAN.steps) + 1


@settings(deadline=None)
@given(left=st.integers(0, 10**6), step=st.integers(0, 399), weights=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)))
def test_the_highest_ratio_never_asks_for_more_rows_than_are_left(
    left: int, step: int, weights: tuple[float, float]
) -> None:
    replay = dict(zip("ab", weights, strict=True))
    progress = Progress(step, PLAN, [Phase(0, 0.2)], {"new": 1}, replay, {"a": left, "b": 2 * left})
    ratio = significant_below(highest_ratio(progress))
    assert 0 <= ratio <= 1
    for name, weight in replay.items():
        asked = ratio * progress.rows_to_come * weight / sum(weights)
        assert asked <= progress.left[name] * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(1e-9, 1.0))
def test_rounding_down_rounds_down_and_not_far(value: float) -> None:
    rounded = significant_below(value)
    assert value * 0.99 <= rounded <= value
    assert float(f"{rounded:.3g}") == rounded

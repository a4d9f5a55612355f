"""Domain discrepancy and skill graph: the papers' numbers, their limits, and what enters the phase log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import plan_of

from rewarm_api.snapshot import Role
from rewarm_trainer.controllers import domain_discrepancy, skill_graph
from rewarm_trainer.controllers.conduct import Conductor
from rewarm_trainer.controllers.domain_discrepancy import DomainDiscrepancy, next_shares
from rewarm_trainer.controllers.protocol import Losses, Progress, SetHistory, SetLook, bounded_shares, rounded_shares
from rewarm_trainer.controllers.skill_graph import SkillGraph
from rewarm_trainer.order import MIXTURE, Order, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.statistics import Delta

PLAN = plan_of(100, evaluate=10)
BATCH = PLAN.tokens_per_step
EVERY = 20 * BATCH
GRAPH = {("b", "a"): 0.5}

shares_of = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8)


def history(*losses: float, every: int = 20, base: float | None = None) -> SetHistory:
    """The baseline and one look at each mark; deltas to `base`."""
    first = losses[0] if base is None else base
    looks = [SetLook(0, first, None)]
    for number, loss in enumerate(losses, start=1):
        mean = loss - first
        looks.append(SetLook(number * every * BATCH, loss, Delta(mean, mean - 0.1, mean + 0.1, 0.5, documents=50)))
    return SetHistory(Role.NEW, looks)


def progress(
    step: int,
    corpus: Mapping[str, float],
    replay: Mapping[str, float] | None = None,
    left: Mapping[str, int] | None = None,
    ratio: float = 0.2,
) -> Progress:
    enough = dict.fromkeys(replay or {}, 10**6)
    return Progress(step, PLAN, [Phase(0, ratio)], corpus, replay or {}, left or enough)


def test_domain_discrepancy_has_the_papers_numbers() -> None:
    """science.md section 8: student perplexities (20, 10, 12), teacher 10; then (16, 10, 11); alpha 0.5."""
    first = domain_discrepancy.first_shares({"a": 2.0, "b": 1.0, "c": 1.2})
    assert list(first.values()) == pytest.approx([0.550295, 0.202442, 0.247263], abs=1e-6)
    second = domain_discrepancy.next_shares(first, {"a": 1.6, "b": 1.0, "c": 1.1}, smoothing=0.5)
    assert list(second.values()) == pytest.approx([0.505781, 0.235133, 0.259086], abs=1e-6)


def test_a_student_as_good_as_its_teacher_stays_even() -> None:
    even = domain_discrepancy.first_shares(dict.fromkeys("abcd", 1.0))
    assert set(even.values()) == {0.25}
    assert domain_discrepancy.next_shares(even, dict.fromkeys("abcd", 1.0), 0.5) == even


@settings(deadline=None)
@given(shares_of, shares_of, st.floats(0.0, 1.0), st.floats(0, 800))
def test_discrepancy_shares_sum_to_one_above_their_floor(
    before: list[float], ratios: list[float], smoothing: float, large: float
) -> None:
    names = [str(number) for number in range(min(len(before), len(ratios)))]
    start = dict(zip(names, before, strict=False))
    found = domain_discrepancy.next_shares(
        start, {n: r + large for n, r in zip(names, ratios, strict=False)}, smoothing
    )
    assert math.fsum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= smoothing / len(names) * (1 - 1e-9)


def test_the_skill_graph_has_the_papers_numbers() -> None:
    """science.md section 10: A = [[1,0,0],[.5,1,0],[0,0,1]], eta 0.2, losses (2,3,1) and (1.8,2.5,.9)."""
    first = skill_graph.first_shares("abc", GRAPH, 0.2)
    assert list(first.values()) == pytest.approx([0.322043, 0.355913, 0.322043], abs=1e-6)
    summed = {"a": 2 + 1.8, "b": 3 + 2.5, "c": 1 + 0.9}
    found = skill_graph.next_shares(GRAPH, 0.2, summed)
    assert list(found.values()) == pytest.approx([0.267502, 0.549564, 0.182934], abs=1e-6)


def test_without_a_rate_all_skills_weigh_the_same_and_without_edges_the_high_loss_wins() -> None:
    summed = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert list(skill_graph.next_shares(GRAPH, 0.0, summed).values()) == pytest.approx([1 / 3] * 3)
    own = skill_graph.next_shares({}, 0.5, summed)
    assert sorted(own, key=lambda name: own[name]) == ["b", "c", "a"]
    assert own["a"] / own["b"] == pytest.approx(math.exp(0.5 * 2))


def test_the_controller_follows_the_paper_through_two_rounds() -> None:
    control = SkillGraph(0.2, 3, GRAPH, EVERY)
    losses = {"a": history(2, 1.8), "b": history(3, 2.5), "c": history(1, 0.9)}
    opening = control(progress(0, dict.fromkeys("abc", 1.0)), {})
    assert opening is not None
    assert list(opening.weights.values()) == pytest.approx([0.322043, 0.355913, 0.322043], abs=1e-6)  # type: ignore[union-attr]
    assert control(progress(39, dict.fromkeys("abc", 1.0)), losses) is None, "between marks nothing moves"
    second = control(progress(40, dict.fromkeys("abc", 1.0)), losses)
    assert second is not None
    assert list(second.weights.values()) == pytest.approx([0.267502, 0.549564, 0.182934], abs=1e-6)  # type: ignore[union-attr]
    assert "a 3.800, b 5.500, c 1.900" in second.why
    assert control(progress(100, dict.fromkeys("abc", 1.0)), losses) is None, "no row follows the last update"


def test_only_the_losses_within_the_window_count() -> None:
    losses: Losses = {"a": history(9, 9, 1, 1), "b": history(1, 1, 2, 2)}
    even = {"a": 1.0, "b": 1.0}
    short, whole = (SkillGraph(0.5, window, {}, EVERY)(progress(80, even), losses) for window in (2, 4))
    assert short is not None
    assert whole is not None
    assert short.weights["a"] < 0.5 < whole.weights["a"]  # type: ignore[index]


def test_discrepancy_weighs_each_group_for_itself() -> None:
    control = DomainDiscrepancy(0.5, EVERY)
    losses = {
        "a": history(2.0, base=3.0), "b": history(2.5, base=3.0),
        "old": history(3.4, base=3.0), "older": history(3.0, base=3.0),
    }  # fmt: skip
    found = control(progress(20, {"a": 1, "b": 1}, {"old": 1, "older": 1}), losses)
    assert found is not None
    weights = dict(found.weights or {})
    assert weights["a"] + weights["b"] == pytest.approx(1, abs=1e-5)
    assert weights["old"] + weights["older"] == pytest.approx(1, abs=1e-5)
    assert weights["b"] > weights["a"], "it gained less"
    assert weights["old"] > weights["older"], "it was forgotten"
    assert "old is furthest behind" in found.why
    expected = domain_discrepancy.next_shares({"old": 0.5, "older": 0.5}, {"old": math.exp(0.4), "older": 1.0}, 0.5)
    assert weights["old"] == pytest.approx(expected["old"], abs=1e-6)
    alone = control(progress(20, {"a": 1, "b": 1}, {"old": 1}), losses)
    assert alone is not None
    assert (alone.weights or {}).keys() == {"a", "b"}


def test_against_a_teacher_of_its_own_the_corpus_follows_the_paper_through_two_rounds() -> None:
    """science.md section 8 again, from losses: the teacher's perplexity is 10 everywhere."""
    taught = {name: {"full": math.log(10), "look": math.log(10)} for name in "abc"}
    baseline = dict(zip("abc", map(math.log, (20, 10, 12)), strict=True))
    later = dict(zip("abc", map(math.log, (16, 10, 11)), strict=True))
    control, even = DomainDiscrepancy(0.5, EVERY), dict.fromkeys("abc", 1.0)
    losses = {name: SetHistory(Role.NEW, [SetLook(0, loss, None)]) for name, loss in baseline.items()}
    first = control(replace(progress(0, even), teacher=taught), losses)
    assert first is not None
    assert list((first.weights or {}).values()) == pytest.approx([0.550295, 0.202442, 0.247263], abs=1e-6)
    losses = {name: history(later[name], base=baseline[name]) for name in "abc"}
    second = control(replace(progress(20, first.weights or {}), teacher=taught), losses)
    assert second is not None
    assert list((second.weights or {}).values()) == pytest.approx([0.505781, 0.235133, 0.259086], abs=2e-6)
    assert control(progress(0, even), losses) is None, "against the base all begin even"


def test_a_loss_that_is_not_known_moves_nothing() -> None:
    losses = {"a": history(2.0), "b": history(math.nan)}
    assert DomainDiscrepancy(0.5, EVERY)(progress(20, {"a": 1, "b": 1}), losses) is None
    assert SkillGraph(0.5, 3, {}, EVERY)(progress(20, {"a": 1, "b": 1}), losses) is None
    assert SkillGraph(0.5, 3, {}, EVERY)(progress(20, {"a": 1, "c": 1}), losses) is None


@settings(deadline=None)
@given(shares_of, st.lists(st.integers(0, 400), min_size=2, max_size=8), st.floats(0.01, 0.9))
def test_bounded_shares_keep_their_limits_and_their_sum(shares: list[float], left: list[int], ratio: float) -> None:
    names = [str(number) for number in range(min(len(shares), len(left)))]
    whole = math.fsum(shares[: len(names)])
    asked = {name: share / whole for name, share in zip(names, shares, strict=False)}
    at = progress(20, {"new": 1}, asked, dict(zip(names, left, strict=False)), ratio)
    found = bounded_shares(asked, at)
    assert math.fsum(found.values()) == pytest.approx(1)
    rows = at.rows_to_come * ratio
    possible = sum(max(0, count - 2) for count in left[: len(names)])
    if possible > rows:
        assert all(found[name] * rows <= at.left[name] + 1e-6 for name in names)
    if all(asked[name] * rows <= max(0, at.left[name] - 2) for name in names):
        assert found == pytest.approx(asked)


def test_the_conductor_keeps_ratio_and_weights_apart_and_the_log_adds_up() -> None:
    conductor = Conductor(
        {MIXTURE: SkillGraph(0.5, 3, {("a", "b"): 0.5}, EVERY)},
        plan=PLAN,
        corpus={"a": 1.0, "b": 1.0},
        replay={"old": 1.0},
        allowed={"old": 1000},
    )
    state = TrainState(experiment="x")
    sizes = {"a": 500, "b": 500, "old": 500}

    def order() -> Order:
        return Order(
            state.phase_log(), seed=1, rows_per_step=8, sizes=sizes, corpus={"a": 1.0, "b": 1.0}, replay={"old": 1.0}
        )

    state.phases = [Phase(0, 0.25, skipped={"a": 3}).to_json()]
    (told,) = conductor.begin(state)
    assert (told["what"], told["step"]) == ("WeightsMoved", 0)
    (opening,) = state.phase_log()
    assert (opening.reason, opening.skipped, opening.ratio) == ("start", {"a": 3}, 0.25)
    assert opening.weights == pytest.approx({"a": 0.562177, "b": 0.437823}, abs=1e-6)
    state.advance(order(), PLAN, 20)
    state.evaluations = [look_of(0, a=3.0, b=3.0), look_of(20 * BATCH, a=2.0, b=3.0)]
    conductor.act(state)
    last = state.phase_log()[-1]
    assert (last.first_step, last.ratio, last.reason) == (20, 0.25, MIXTURE)
    assert order().borders == [0], "no stability gap is looked for after a small move"
    state.advance(order(), PLAN, 40)
    state.check(order(), PLAN, "here")
    assert state.rows["old"] == 80
    assert state.rows["b"] == pytest.approx(20 * 6 * (0.437823 + (last.weights or {})["b"]), abs=2)


def look_of(tokens: int, **losses: float) -> dict[str, object]:
    delta = None if tokens == 0 else Delta(0.0, -0.1, 0.1, 1.0, documents=50).to_json()
    return {
        "tokens": tokens,
        "sets": {name: {"role": "New", "loss": loss, "delta": delta} for name, loss in losses.items()},
    }


def test_a_share_that_got_tiny_can_grow_again() -> None:
    shares = {"near": 1.0, "far": 0.0}
    assert rounded_shares(shares) == shares, "what is left out stays out"
    kept = rounded_shares({"near": 1 - 1e-9, "far": 1e-9})
    assert kept == {"near": 1.0, "far": 1e-6}
    assert next_shares(kept, {"near": 1.0, "far": 20.0}, smoothing=0)["far"] > 0.9

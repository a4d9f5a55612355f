"""What follows from a look: memory, and what gates.onForgetting does about a model that really forgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import EOS, LENGTH, VOCABULARY, collect, plan_of, tiny

from rewarm_api.snapshot import Gates, Role
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.judge import RunJudge, history_of
from rewarm_trainer.looks import EvaluationSet, Looks, Scorer
from rewarm_trainer.model import TokenLosses
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState

PLAN = plan_of(20)


def documents(name: str, seed: int) -> EvaluationDocuments:
    random = np.random.default_rng(seed)
    ids = [random.integers(1, VOCABULARY, 12) for _ in range(40)]
    return EvaluationDocuments(name, ids, [40] * len(ids), [f"{name}{n}" for n in range(len(ids))])


class Bench:
    """A run whose model can be made worse at will."""

    def __init__(self, root: Path, on_forgetting: str, *, ratio: float, can_raise: bool, ceiling: float) -> None:
        self.model = tiny()
        sets = {
            "new": EvaluationSet("new", Role.NEW, "n", documents("new", 1)),
            "old": EvaluationSet("old", Role.RETAINED, "o", documents("old", 2)),
        }
        scorer = Scorer(TokenLosses(self.model), None, EOS, LENGTH, 512, "FP32", rank=0, world=1)
        looks = Looks(
            sets,
            scorer,
            look_tokens=10**6,
            export_type=torch.float32,
            state=root / "state",
            report=lambda *_: None,
        )
        self.state = TrainState(experiment="sha256:x")
        self.move(0, [Phase(0, ratio)])
        self.state.evaluations = [looks.baseline(root / "cache", "t")]
        self.records, listen = collect()
        self.judge = RunJudge(
            looks,
            self.model,
            asked=Gates(max_forgetting=0.01, min_gain=None, on_forgetting=on_forgetting),
            plan=PLAN,
            can_raise=can_raise,
            ceiling=ceiling,
            listen=listen,
        )

    def move(self, step: int, phases: list[Phase] | None = None) -> None:
        order = Order(
            phases or self.state.phase_log(),
            seed=1,
            rows_per_step=8,
            sizes={"new": 99, "old": 99},
            corpus={"new": 1},
            replay={"old": 1},
        )
        self.state.advance(order, PLAN, step)

    def worse(self) -> None:
        with torch.no_grad():
            self.model.lm_head.weight.mul_(1.5)

    def look(self, step: int, *, final: bool = False) -> None:
        self.move(step)
        self.judge.look(self.state, final=final)

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event"] == "decision"]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(on_forgetting: str, *, ratio: float = 0.1, can_raise: bool = True, ceiling: float = 0.5) -> Bench:
        return Bench(tmp_path, on_forgetting, ratio=ratio, can_raise=can_raise, ceiling=ceiling)

    return make


def test_looks_are_remembered_and_told(bench: Callable[..., Bench]) -> None:
    run = bench("Warn")
    run.worse()
    run.look(4)
    run.look(8)
    run.look(20, final=True)
    assert [(look["step"], look["full"]) for look in run.state.evaluations] == [
        (0, True),
        (4, False),
        (8, False),
        (20, True),
    ]
    assert [record["step"] for record in run.records if record["event"] == "evaluation"] == [4, 8, 20]
    assert run.state.seconds["evaluate"] > 0
    histories = history_of(run.state)
    assert {name: [look.tokens for look in looks] for name, looks in histories.items()} == {
        name: [step * PLAN.tokens_per_step for step in (4, 8, 20)] for name in ("new", "old")
    }
    assert history_of(run.state, Role.RETAINED).keys() == {"old"}


def test_a_look_taken_again_after_a_resume_replaces_the_first(bench: Callable[..., Bench]) -> None:
    run = bench("Warn")
    for step in (4, 8, 8, 4):
        run.look(step)
    assert [look["step"] for look in run.state.evaluations] == [0, 4]


def test_a_model_that_forgets_nothing_is_left_alone(bench: Callable[..., Bench]) -> None:
    run = bench("Stop")
    for step in (8, 12, 16):
        run.look(step)
    assert (run.decisions, run.state.decisions, run.state.stopped) == ([], [], "")


def test_nothing_is_done_in_the_stability_gap(bench: Callable[..., Bench]) -> None:
    run = bench("Stop")
    run.worse()
    for step in (1, 2, 4):  # warm-up lasts five steps
        run.look(step)
    assert run.decisions == []


def test_warn_says_so_once_each_tenth_of_the_plan(bench: Callable[..., Bench]) -> None:
    run = bench("Warn")
    run.worse()
    for step in (8, 9, 10):
        run.look(step)
    (decision,) = run.decisions
    assert (decision["what"], decision["step"], decision["tokens"]) == (
        "ForgettingExceeded",
        9,
        9 * PLAN.tokens_per_step,
    )
    assert "old" in decision["why"]
    assert "beyond the limit 0.01" in decision["why"]
    assert run.state.stopped == ""
    assert len(run.state.phases) == 1


def test_raise_replay_begins_a_phase_at_this_step(bench: Callable[..., Bench]) -> None:
    run = bench("RaiseReplay")
    run.worse()
    run.look(8)
    run.look(9)
    (decision,) = run.decisions
    assert (decision["what"], decision["from"], decision["to"]) == ("RaiseReplay", 0.1, 0.2)
    assert run.state.phase_log() == [Phase(0, 0.1), Phase(9, 0.2, "forgetting")]
    run.move(12)
    assert run.state.rows["old"] == round(9 * 8 * 0.1) + round(3 * 8 * 0.2)
    assert sum(run.state.rows.values()) == 12 * 8
    for step in (12, 14, 16):
        run.look(step)
    assert [phase.ratio for phase in run.state.phase_log()] == [0.1, 0.2, 0.4], "again, after another stability gap"


def test_raise_replay_warns_where_it_cannot_raise(bench: Callable[..., Bench]) -> None:
    for options, why in (
        ({"can_raise": False}, "there are no replay sources"),
        ({"ceiling": 0.1}, "the replay ratio 0.1 is at its highest"),
    ):
        run = bench("RaiseReplay", **options)
        run.worse()
        run.look(8)
        run.look(9)
        (decision,) = run.decisions
        assert decision["what"] == "ForgettingExceeded"
        assert decision["why"].endswith(f"replay is not raised: {why}")
        assert len(run.state.phases) == 1


def test_stop_judges_at_once_and_says_why(bench: Callable[..., Bench]) -> None:
    run = bench("Stop")
    run.worse()
    run.look(8)
    run.look(9)
    (decision,) = run.decisions
    assert decision["what"] == "Stop"
    assert run.state.stopped == decision["why"]
    last = run.state.evaluations[-1]
    assert (last["step"], last["full"]) == (9, True), "the verdict is on the whole sets"
    assert [look["step"] for look in run.state.evaluations] == [0, 8, 9]


def test_without_sets_there_is_nothing_to_judge(tmp_path: Path) -> None:
    run = Bench(tmp_path, "Stop", ratio=0.1, can_raise=True, ceiling=0.5)
    empty = RunJudge(
        Looks({}, None, look_tokens=1, export_type=torch.float32, state=tmp_path, report=lambda *_: None),  # type: ignore[arg-type]
        run.model,
        asked=None,
        plan=PLAN,
        can_raise=False,
        ceiling=0.5,
        listen=run.records.append,
    )
    before = list(run.state.evaluations)
    empty.look(run.state, final=True)
    assert run.state.evaluations == before

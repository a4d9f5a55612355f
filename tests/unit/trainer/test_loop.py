"""The loop on a real model with real checkpoints: marks, stops, resumes and divergence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import EOS, SETTINGS, Table, Trainer, collect, plan_of, random_rows, tiny

from rewarm_api.errors import DivergedError, Preempted
from rewarm_api.snapshot import Divergence, Training
from rewarm_trainer import schedule
from rewarm_trainer.batches import Loader
from rewarm_trainer.checkpoint import Checkpoints
from rewarm_trainer.judge import RunJudge
from rewarm_trainer.keeper import Keeper
from rewarm_trainer.looks import Looks
from rewarm_trainer.loop import Loop, rows_in_words
from rewarm_trainer.order import Order, Phase, RowAddress
from rewarm_trainer.state import TrainState
from rewarm_trainer.storage import LocalStorage

PLAN = plan_of(12)  # commits after 3, 6, 9 and 12
POISON = 13
SIZES = {"new": 200, "old": 100}


def training(rollbacks: int, skip_steps: int) -> Training:
    return Training(
        sequence_length=24,
        global_batch_tokens=192,
        micro_batch_rows=None,
        optimizer=SETTINGS,
        precision="FP32",
        document_masking=True,
        document_start="Tokenizer",
        activation_checkpointing="None",
        freeze=(),
        divergence=Divergence(rollbacks=rollbacks, skip_steps=skip_steps),
        seed=5,
    )


class Bench:
    """A run of its own folder: call `start` again to resume it, as another process would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = {
            name: np.where(random_rows(size, seed=number) == POISON, POISON + 1, random_rows(size, seed=number))
            for number, (name, size) in enumerate(SIZES.items())
        }
        self.records, self.listen = collect()
        self.seen: list[tuple[int, Order]] = []

    def order(self, phases: list[Phase]) -> Order:
        return Order(phases, seed=5, rows_per_step=8, sizes=SIZES, corpus={"new": 1}, replay={"old": 1})

    def poison(self, *steps: int) -> list[tuple[str, int]]:
        """Put a token into one row of each of these updates that makes its loss not finite; returns the rows."""
        order = self.order([Phase(0, 0.25)])
        addresses = [order.rows(step - 1)[5] for step in steps]
        for address in addresses:
            self.tables[address.source][address.row, 3] = POISON
        return [(address.source, address.row) for address in addresses]

    def first_state(self) -> TrainState:
        state = TrainState(experiment="sha256:x", seed=5)
        state.advance(self.order([Phase(0, 0.25)]), PLAN, 0)
        return state

    def start(
        self,
        *,
        stop_at: int | None = None,
        commit_at: int | None = None,
        rollbacks: int = 2,
        skip_steps: int = 1,
    ) -> Loop:
        """Restore, and build the loop; `stop_at`, `commit_at`: the update during which a request arrives."""
        model = tiny("gpt2", embd_pdrop=0.1, tie_word_embeddings=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[POISON] = torch.inf
        trainer = Trainer(model, sources=2, seed=5)
        base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        checkpoints = Checkpoints(LocalStorage(self.root / "checkpoints"), self.root / "staging")
        checkpoints.claim({"pid": 1})

        def load_base() -> TrainState:
            model.load_state_dict(base)
            trainer.optimizer.state.clear()
            return self.first_state()

        keeper = Keeper(
            checkpoints=checkpoints,
            model=model,
            optimizer=trainer.optimizer,
            load_base=load_base,
            companions=lambda: [],
            config=lambda folder: model.config.save_pretrained(folder),
            keep=10,
            rank=0,
            world=1,
            listen=self.listen,
            before_commit=lambda: None,
        )
        state = keeper.restore()
        asked = iter(range(state.step + 1, 1000))
        due = iter(range(state.step + 1, 1000))
        judge = RunJudge(
            Looks({}, None, look_tokens=1, export_type=torch.float32, state=self.root, report=lambda *_: None),  # type: ignore[arg-type]
            model,
            asked=None,
            plan=PLAN,
            can_raise=False,
            ceiling=0.5,
            listen=self.listen,
        )
        tables = {name: Table(rows) for name, rows in self.tables.items()}
        self.model, self.keeper = model, keeper
        self.loop = Loop(
            plan=PLAN,
            training=training(rollbacks, skip_steps),
            state=state,
            new_order=self.order,
            loader=Loader(tables, eos=EOS, masking=True, rank=0, world=1, rows=8),
            updater=trainer.updater,
            judge=judge,
            keeper=keeper,
            listen=self.listen,
            stop_requested=lambda: next(asked) == stop_at,
            commit_due=lambda: next(due) == commit_at,
        )
        return self.loop

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def commits(self) -> list[int]:
        self.keeper.wait()
        return [record["step"] for record in self.records if record.get("event") == "checkpoint committed"]

    @property
    def steps(self) -> dict[int, dict[str, Any]]:
        return {record["step"]: record for record in self.records if "event" not in record}

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("event") == "decision"]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[str], Bench]:
    return lambda name: Bench(tmp_path / name)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def rows_trained(loop: Loop) -> Counter[tuple[str, int]]:
    order = loop.order
    return Counter((address.source, address.row) for step in range(PLAN.steps) for address in order.rows(step))


def test_every_update_is_logged_with_the_rate_and_the_rows_of_the_plan(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    state = run.start().run()
    assert (state.step, state.tokens) == (PLAN.steps, PLAN.tokens)
    assert list(run.steps) == list(range(1, 13))
    order = run.order([Phase(0, 0.25)])
    for step, record in run.steps.items():
        assert record["tokens"] == step * PLAN.tokens_per_step
        assert record["learning_rate"] == schedule.learning_rate(PLAN.segments, record["tokens"])
        assert record["rows"] == order.trained(step)
        assert record["losses"].keys() == {"new", "old"}
        assert record["tokens_per_second"] > 0
    assert run.steps[12]["replay_share"] == 0.25
    assert run.commits() == [3, 6, 9, 12]
    assert state.seconds["train"] > 0
    assert run.steps[12]["loss"] < run.steps[1]["loss"]


def test_a_stop_finishes_the_step_and_commits_it_and_the_next_start_goes_on(bench: Callable[[str], Bench]) -> None:
    whole, stopped = bench("whole"), bench("stopped")
    whole.start().run()
    with pytest.raises(Preempted, match="stopped after step 5 as asked; the checkpoint of this step is committed"):
        stopped.start(stop_at=5).run()
    assert stopped.commits() == [3, 5]
    assert stopped.start().state.step == 5
    assert stopped.loop.run().step == PLAN.steps
    assert equal(stopped.weights(), whole.weights()), "with dropout, bit for bit"
    names = ("loss", "rows", "learning_rate")
    assert [[r[n] for n in names] for r in stopped.steps.values()] == [
        [r[n] for n in names] for r in whole.steps.values()
    ]


def test_a_stop_in_the_last_step_is_no_stop(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    assert run.start(stop_at=12).run().step == 12
    assert run.commits() == [3, 6, 9, 12]


def test_a_commit_that_is_due_by_the_clock_is_made(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.start(commit_at=4).run()
    assert run.commits() == [3, 4, 6, 9, 12]


def test_rows_that_broke_are_passed_over_and_everything_adds_up(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    (bad,) = run.poison(5)
    state = run.start(skip_steps=2).run()
    (decision,) = run.decisions
    assert (decision["what"], decision["step"], decision["tokens"]) == ("RolledBack", 5, 5 * PLAN.tokens_per_step)
    # From the checkpoint after step 3 past updates 4 to 6: the broken one and one more.
    named = f"{bad[0]} row {bad[1]}"
    assert decision["why"] == f"step 5 was not finite ({named}); back to step 3, 24 rows passed over"
    assert state.phase_log() == [Phase(0, 0.25), Phase(3, 0.25, "diverged", {"new": 18, "old": 6})]
    assert state.rollbacks == 1
    trained = rows_trained(run.loop)
    assert bad not in trained
    assert sum(trained.values()) == sum(state.rows.values()) == PLAN.steps * 8
    assert set(trained.values()) == {1}, "no row twice"
    assert sum(state.cursors.values()) == PLAN.steps * 8 + 24
    state.check(run.order(state.phase_log()), PLAN, "here")
    assert all(torch.isfinite(t).all() for n, t in run.weights().items() if "wte" not in n)
    assert run.steps.keys() == set(range(1, 13))
    assert all(np.isfinite(record["loss"]) for record in run.steps.values())
    # A resume reads the same history back.
    again = run.start()
    assert (again.state.phases, again.state.rollbacks) == (state.phases, 1)


def test_a_run_may_diverge_twice_from_the_same_checkpoint(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    bad = run.poison(2, 3)
    state = run.start().run()
    assert [decision["step"] for decision in run.decisions] == [2, 1]
    assert [decision["why"].split(";")[1] for decision in run.decisions] == [
        " back to step 0, 16 rows passed over",
        " back to step 0, 24 rows passed over",
    ]
    assert state.phase_log() == [Phase(0, 0.25, "diverged", {"new": 18, "old": 6})]
    assert state.rollbacks == 2
    trained = rows_trained(run.loop)
    assert not any(row in trained for row in bad)
    assert sum(state.rows.values()) == PLAN.steps * 8
    state.check(run.order(state.phase_log()), PLAN, "here")


def test_what_was_decided_before_the_first_update_outlives_a_rollback_to_it(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.poison(2)
    loop = run.start()
    weights, baseline = {"new": 2.0, "old": 1.0}, {"step": 0, "tokens": 0, "sets": {}, "full": True}
    loop.state.phases = [Phase(0, 0.25, weights=weights).to_json()]
    loop.state.evaluations, loop.state.teacher = [baseline], {"new": {"full": 3.0, "look": 3.0}}
    loop.order = run.order(loop.state.phase_log())
    state = loop.run()
    assert [decision["step"] for decision in run.decisions] == [2]
    (phase,) = state.phase_log()
    assert (phase.reason, phase.weights) == ("diverged", weights)
    assert state.evaluations[0] == baseline
    assert state.teacher == {"new": {"full": 3.0, "look": 3.0}}


def test_a_rollback_stays_in_the_manifests_phase_and_its_order(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.poison(5)
    loop = run.start()
    loop.state.phases = [Phase(0, 0.25, name="first").to_json()]
    loop.order = run.order(loop.state.phase_log())
    state = loop.run()
    assert [(phase.name, phase.reason) for phase in state.phase_log()] == [("first", "start"), ("first", "diverged")]


def test_rows_that_broke_are_named_in_words() -> None:
    batch = [RowAddress("new", 0, number) for number in range(12)]
    assert rows_in_words(batch, [3, 5]) == "new row 3, new row 5"
    assert rows_in_words(batch, range(11)).endswith("new row 7 and 3 more")
    assert rows_in_words(batch, range(12)) == "all 12 rows of it: the weights diverged, not a row"
    assert rows_in_words(batch, []) == "the gradient of finite losses: no single row broke it"


def test_when_the_rollbacks_are_spent_the_run_ends(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.poison(5, 7)
    with pytest.raises(DivergedError, match=r"not finite \((new|old) row \d+\), and all 1") as caught:
        run.start(rollbacks=1, skip_steps=1).run()
    assert caught.value.exit_code == 76
    assert "all 1 rollbacks of spec.training.divergence are spent" in str(caught.value)
    assert "lower spec.schedule.peakLearningRate or inspect the data" in str(caught.value)
    assert len(run.decisions) == 1
    assert run.loop.state.step < PLAN.steps
    none = bench("none")
    none.poison(5)
    with pytest.raises(DivergedError, match=r"step 5: .* all 0 rollbacks"):
        none.start(rollbacks=0).run()


def test_a_broken_update_is_never_committed(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.poison(6)  # the step of a checkpoint
    with pytest.raises(DivergedError):
        run.start(rollbacks=0).run()
    assert run.commits() == [3]


def test_the_rollback_budget_is_not_won_back_by_a_restart(bench: Callable[[str], Bench]) -> None:
    run = bench("a")
    run.poison(5)
    run.start(rollbacks=1).run()
    assert run.start().state.rollbacks == 1

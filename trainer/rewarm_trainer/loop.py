"""The loop: one short loop over one state. Order of things at a mark: log, evaluate, decide, commit.

It reads no clock to decide anything and asks no device to wait outside log steps. A non-finite update goes back to the
last good checkpoint and past the offending rows; a request to stop finishes the step, commits and leaves with 143.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rewarm_api.errors import DivergedError, Preempted
from rewarm_api.snapshot import Plan, Training
from rewarm_trainer import marks, schedule
from rewarm_trainer.batches import Loader
from rewarm_trainer.faults import reached
from rewarm_trainer.order import Order, Phase, RowAddress
from rewarm_trainer.state import TrainState
from rewarm_trainer.update import Numbers, Outcome, Updater

_MOST_NAMED = 8


class Judge(Protocol):
    """What the loop asks of evaluation: a look at the model, and what follows from it."""

    def look(self, state: TrainState, *, final: bool) -> None: ...


class Keeper(Protocol):
    """What the loop asks of checkpoints. Every rank calls each of these at the same step."""

    def commit(self, state: TrainState, *, wait: bool) -> None: ...
    def restore(self) -> TrainState: ...


class _NotFinite(Exception):
    """`rows`: what of the batch of update `step` broke, in words."""

    def __init__(self, step: int, rows: str) -> None:
        self.step, self.rows = step, rows


class Loop:
    """Trains from `state` to the end of the plan. `listen` gets every log record and event; rank 0 writes them."""

    def __init__(
        self,
        *,
        plan: Plan,
        training: Training,
        state: TrainState,
        new_order: Callable[[list[Phase]], Order],
        loader: Loader,
        updater: Updater,
        judge: Judge,
        keeper: Keeper,
        listen: Callable[[dict[str, Any]], None],
        stop_requested: Callable[[], bool],
        commit_due: Callable[[], bool],
        beginning: Callable[[Sequence[Phase], int], Phase | None] = lambda log, step: None,
        after_update: Callable[[int], None] = lambda step: None,
        look_every: int = 0,
    ) -> None:
        """`beginning`: the planned phase that begins after so many updates and is not in the log yet. `after_update`:
        what a method does to the weights after update `step`; it must not wait for the device. `look_every`: tokens
        between looks that controllers need beside those of the plan; 0: none.
        """
        self.plan, self.training, self.state = plan, training, state
        self._new_order = new_order
        self.order = new_order(state.phase_log())
        self._loader, self._updater, self._judge, self._keeper = loader, updater, judge, keeper
        self._listen, self._stop_requested, self._commit_due = listen, stop_requested, commit_due
        self._beginning, self._after_update = beginning, after_update
        self._look_every = look_every
        self._pending: deque[Outcome] = deque()
        self._stop = self._commit = False
        self._timer = _Timer(plan.tokens_per_step)

    def run(self) -> TrainState:
        """Train to the end of the plan (or of `state.stopped`); the last update is evaluated and committed."""
        while self.state.step < self.plan.steps and not self.state.stopped:
            try:
                self._one_step()
            except _NotFinite as failure:
                self._roll_back(failure.step, failure.rows)
        return self.state

    def _one_step(self) -> None:
        self._begin_phase()
        step = self.state.step + 1
        starts = self.order.borders
        evaluates = marks.is_evaluation_step(self.plan, step, starts) or self._looks_for_weights(step)
        commits = marks.is_checkpoint_step(self.plan, step)
        logs = evaluates or marks.is_log_step(self.plan, step, starts)
        with self._timer:
            batch = self._loader.batch(self.order, self.state.step)
            rate = schedule.learning_rate(self.plan.segments, step * self.plan.tokens_per_step)
            outcome = self._updater.apply(
                self.state.step, batch, rate, stop=self._stop_requested(), commit=self._commit_due(), by_source=logs
            )
            self._after_update(step)
            self._pending.append(outcome)
            # The numbers of the step before are read only now, when this step is on its way: no step waits for them.
            numbers = self._settle(1)
            if logs:
                numbers = self._settle(0)
        self.state.advance(self.order, self.plan, step)
        self.state.seconds["train"] = self.state.seconds.get("train", 0.0) + self._timer.last
        if logs and numbers:
            self._log(outcome, numbers)
        self._after(evaluates=evaluates, commits=commits)

    def _begin_phase(self) -> None:
        """A planned phase enters the log only now that its first update is due; a rollback takes it out again."""
        phase = self._beginning(self.order.phases, self.state.step)
        if phase is not None:
            self.order = self._new_order(self.order.extended(phase))
            self.state.advance(self.order, self.plan, self.state.step)
            place = {"step": self.state.step, "tokens": self.state.tokens}
            self._listen({"event": "phase began", **place, "name": phase.name, "replay_ratio": phase.ratio})

    def _looks_for_weights(self, step: int) -> bool:
        batch = self.plan.tokens_per_step
        return self._look_every > 0 and marks.fires(self._look_every, (step - 1) * batch, step * batch)

    def _settle(self, keep: int) -> Numbers | None:
        """Read the oldest outcomes until `keep` are left; all ranks see the same requests at the same step."""
        numbers = None
        while len(self._pending) > keep:
            outcome = self._pending.popleft()
            numbers = outcome.read()
            if not numbers.finite:
                broken = self._updater.broken_rows(outcome)
                raise _NotFinite(outcome.step + 1, rows_in_words(self.order.rows(outcome.step), broken))
            self._stop |= numbers.stop
            self._commit |= numbers.commit
        return numbers

    def _after(self, *, evaluates: bool, commits: bool) -> None:
        last = self.state.step == self.plan.steps
        if (evaluates or commits or self._stop or self._commit) and self._pending:
            self._settle(0)
        if evaluates:
            reached("look.begin")
            self._judge.look(self.state, final=last)
            self._adopt_decisions()
        last = last or bool(self.state.stopped)
        if commits or self._commit or self._stop or last:
            self._commit = False
            self._keeper.commit(self.state, wait=self._stop or last)
        if self._stop and not last:
            raise Preempted(f"stopped after step {self.state.step} as asked; the checkpoint of this step is committed")

    def _adopt_decisions(self) -> None:
        """A look may have appended a phase (another replay ratio): from this step boundary on it holds."""
        phases = self.state.phase_log()
        if phases != list(self.order.phases):
            self.order = self._new_order(phases)
            self.state.advance(self.order, self.plan, self.state.step)

    def _roll_back(self, failed: int, rows: str) -> None:
        """Back to the last good checkpoint, and past the rows that broke: the same rows would diverge again."""
        self._pending.clear()
        spent, budget = self.state.rollbacks, self.training.divergence
        if spent >= budget.rollbacks:
            raise DivergedError(
                f"step {failed}: the loss or its gradient is not finite ({rows}), and all {budget.rollbacks} rollbacks "
                "of spec.training.divergence are spent; lower spec.schedule.peakLearningRate or inspect the data"
            )
        past, seconds = self.state.decisions, dict(self.state.seconds)
        failing, opening = self.state, self.order.phases[0]
        beyond = self.order.cursors(failed - 1 + budget.skip_steps)
        self.state = self._keeper.restore()
        if self.state.step == 0:
            # No checkpoint yet: what was measured and decided before the first update stands.
            began = replace(self.state.phase_log()[0], ratio=opening.ratio, weights=opening.weights)
            self.state.evaluations, self.state.phases = failing.evaluations[:1], [began.to_json()]
            self.state.teacher, self.state.environment = failing.teacher, failing.environment
        restored = self._new_order(self.state.phase_log())
        here = restored.cursors(self.state.step)
        skipped = {name: beyond[name] - here[name] for name in here if beyond[name] > here[name]}
        under = restored.phase(self.state.step)
        phase = replace(under, first_step=self.state.step, reason="diverged", skipped=skipped)
        self.order = self._new_order(restored.extended(phase))
        back = f"back to step {self.state.step}, {sum(skipped.values())} rows passed over"
        why = f"step {failed} was not finite ({rows}); {back}"
        decision = {"what": "RolledBack", "why": why, "step": failed, "tokens": failed * self.plan.tokens_per_step}
        self.state.rollbacks = spent + 1
        # What was decided after the restored step is not part of the run any more; that it was rolled back is.
        kept = [each for each in past if each["what"] == "RolledBack" or each["step"] <= self.state.step]
        self.state.decisions = [*kept, decision]
        self.state.seconds = seconds
        self.state.advance(self.order, self.plan, self.state.step)
        self._listen({"event": "decision", **decision})

    def _log(self, outcome: Outcome, numbers: Numbers) -> None:
        state = self.state
        replayed = state.replayed(self.order.replay_names)
        self._listen(
            {
                "step": state.step,
                "tokens": state.tokens,
                "loss": numbers.loss,
                "learning_rate": outcome.learning_rate,
                "rows": state.rows,
                "losses": outcome.losses(self._loader.numbers),
                "gradient_norm": numbers.gradient_norm,
                "tokens_per_second": self._timer.rate(),
                "replay_share": replayed / max(1, sum(state.rows.values())),
            }
        )


def rows_in_words(addresses: Sequence[RowAddress], broken: Sequence[int]) -> str:
    """Which rows of a batch broke, for people: source and number of each, or what it means that all or none did."""
    if not broken:
        return "the gradient of finite losses: no single row broke it"
    if len(broken) == len(addresses):
        return f"all {len(addresses)} rows of it: the weights diverged, not a row"
    named = [f"{addresses[number].source} row {addresses[number].row}" for number in broken[:_MOST_NAMED]]
    more = f" and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
    return f"{', '.join(named)}{more}"


class _Timer:
    """Seconds inside updates only, so that looks and commits do not look like slow training."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens = tokens_per_step
        self._recent: deque[float] = deque(maxlen=20)
        self._began = 0.0
        self.last = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last = time.perf_counter() - self._began
        self._recent.append(self.last)

    def rate(self) -> float:
        """Tokens per second over the last 20 updates."""
        return self._tokens * len(self._recent) / sum(self._recent) if self._recent else float("nan")

"""What follows from a look: it is remembered, told, and held against `gates.onForgetting`.

Every rank runs this on the same look and comes to the same decision; only rank 0 has listeners.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from rewarm_api.snapshot import Gates, Plan, Role
from rewarm_trainer import forgetting, gates
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.controllers.conduct import Conductor
from rewarm_trainer.controllers.protocol import WEIGHTS_MOVED
from rewarm_trainer.looks import Looks, deltas_of
from rewarm_trainer.order import MIXTURE
from rewarm_trainer.overfitting import Lowest
from rewarm_trainer.state import TrainState


class RunJudge:
    """Looks on the way and at the end, and what they change: a warning, a higher replay ratio, or the end of training.

    `ceiling`: the highest replay ratio that the replay sources allow under `maxRepeats`. `conductor`: the controllers
    that may move the mixture after a look.
    """

    def __init__(
        self,
        looks: Looks,
        model: nn.Module,
        *,
        asked: Gates | None,
        plan: Plan,
        can_raise: bool,
        ceiling: float,
        listen: Callable[[dict[str, Any]], None],
        benchmarks: Benchmarks | None = None,
        conductor: Conductor | None = None,
    ) -> None:
        self._looks, self._benchmarks, self._model = looks, benchmarks, model
        self._conductor = conductor
        self._asked, self._plan, self._can_raise, self._ceiling = asked, plan, can_raise, ceiling
        self._listen = listen

    def look(self, state: TrainState, *, final: bool) -> None:
        """Look at the model after `state.step` updates and act on it; the state remembers both."""
        if not self._looks.sets and not (final and self._benchmarks):
            return
        self._take(state, final)
        if not final:
            self._act(state)
            self._steer(state)

    def _take(self, state: TrainState, final: bool) -> None:
        self._looks.lowest = Lowest(dict(state.lowest))
        look = self._final(state) if final else self._looks.look(state.step, state.tokens)
        state.lowest = self._looks.lowest.looks
        state.evaluations = [past for past in state.evaluations if past["step"] < state.step] + [look]
        state.seconds["evaluate"] = state.seconds.get("evaluate", 0.0) + look["seconds"]
        self._listen({"event": "evaluation", **look})

    def _steer(self, state: TrainState) -> None:
        """Let the mixture's controllers decide on the same look."""
        if self._conductor is None or state.stopped:
            return
        for decision in self._conductor.act(state):
            self._listen({"event": "decision", **decision})

    def _final(self, state: TrainState) -> dict[str, Any]:
        """The sets and the benchmarks, on the weights as they will be exported."""
        look = self._looks.final(self._model, state.step, state.tokens)
        if self._benchmarks is None:
            return look
        began = time.monotonic()
        asked = self._benchmarks.final(self._model)
        return {**look, "benchmarks": asked, "seconds": round(look["seconds"] + time.monotonic() - began, 3)}

    def _act(self, state: TrainState) -> None:
        phases = state.phase_log()
        # Small moves of the weights are neither a border nor something done about forgetting.
        acted = [decision["tokens"] for decision in state.decisions if decision["what"] != WEIGHTS_MOVED]
        began = max(phase.first_step for phase in phases if phase.reason != MIXTURE)
        since = max([began * self._plan.tokens_per_step, *acted])
        action = gates.watch(
            self._asked,
            self._plan,
            history_of(state, Role.RETAINED),
            ratio=phases[-1].ratio,
            can_raise=self._can_raise,
            since=since,
            ceiling=self._ceiling,
        )
        if isinstance(action, gates.Nothing):
            return
        decision = {"what": type(action).__name__, "why": action.why, "step": state.step, "tokens": state.tokens}
        if isinstance(action, gates.Warn):
            decision["what"] = "ForgettingExceeded"
        if isinstance(action, gates.RaiseReplay):
            decision |= {"from": action.from_ratio, "to": action.to_ratio}
            raised = replace(phases[-1], first_step=state.step, ratio=action.to_ratio, reason="forgetting", skipped={})
            state.phases = [*state.phases, raised.to_json()]
        state.decisions = [*state.decisions, decision]
        self._listen({"event": "decision", **decision})
        if isinstance(action, gates.Stop):
            state.stopped = action.why
            self._take(state, final=True)


def history_of(state: TrainState, role: Role | None = None) -> dict[str, list[forgetting.Look]]:
    """The paired looks of each set so far, oldest first; those of one role, or all."""
    histories: dict[str, list[forgetting.Look]] = {}
    for look in state.evaluations:
        for name, (found, delta) in deltas_of(look).items():
            if role is None or found is role:
                histories.setdefault(name, []).append(forgetting.Look(look["tokens"], delta))
    return histories

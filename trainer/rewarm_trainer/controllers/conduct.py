"""Puts controllers to work: what they see comes from the state, what they decide goes into its phase log.

Every rank calls this at the same step with the same state and writes the same phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewarm_api.controller_rules import share
from rewarm_api.pins import Pins
from rewarm_api.quantity import parse_length
from rewarm_api.snapshot import Group, Plan, Role, Snapshot
from rewarm_trainer.controllers.domain_discrepancy import DomainDiscrepancy
from rewarm_trainer.controllers.forgetting_budget import REASON as BUDGET
from rewarm_trainer.controllers.forgetting_budget import ForgettingBudget
from rewarm_trainer.controllers.protocol import Controller, Decision, Losses, Progress, SetHistory, SetLook
from rewarm_trainer.controllers.skill_graph import SkillGraph
from rewarm_trainer.order import MIXTURE, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.statistics import Delta


class Conductor:
    """The controllers of one run, by the reason that they give a phase.

    `corpus`, `replay`: the run's own weights by group; `allowed`: rows that each replay source may give in all.
    """

    def __init__(
        self,
        controllers: Mapping[str, Controller],
        *,
        plan: Plan,
        corpus: Mapping[str, float],
        replay: Mapping[str, float],
        allowed: Mapping[str, int],
    ) -> None:
        self._controllers = dict(controllers)
        self._plan = plan
        self._corpus, self._replay, self._allowed = dict(corpus), dict(replay), dict(allowed)

    @staticmethod
    def of(snapshot: Snapshot, pins: Pins) -> Conductor:
        """The controllers that a prepared run asks for; none does nothing."""
        new = {source.name for source in snapshot.group(Group.CORPUS)}
        replay = {name: pin for name, pin in pins.sources.items() if name not in new}
        return Conductor(
            controllers_of(snapshot, pins.plan),
            plan=pins.plan,
            corpus={name: pin.weight for name, pin in pins.sources.items() if name in new},
            replay={name: pin.weight for name, pin in replay.items()},
            allowed={name: pin.rows * snapshot.replay.max_repeats for name, pin in replay.items()},
        )

    def begin(self, state: TrainState) -> list[dict[str, Any]]:
        """Ask each controller before the first update: the first phase begins with what they decide."""
        opening = state.phase_log()[-1]
        told = self.act(state)
        decided = state.phase_log()[-1]
        state.phases = [replace(opening, ratio=decided.ratio, weights=decided.weights).to_json()]
        return told

    def act(self, state: TrainState) -> list[dict[str, Any]]:
        """Ask each controller after a look; what they decide is in `state` and, as JSON, in the result."""
        if not self._controllers:
            return []
        progress, losses = self._progress(state), losses_of(state.evaluations)
        found = {reason: controller(progress, losses) for reason, controller in self._controllers.items()}
        decided = {reason: decision for reason, decision in found.items() if decision is not None}
        moving = {reason: each for reason, each in decided.items() if each.moves}
        if moving:
            state.phases = [*state.phases, self._phase(state.step, progress, moving).to_json()]
        told = [_told(decision, state) for decision in decided.values()]
        state.decisions = [*state.decisions, *told]
        return told

    def _progress(self, state: TrainState) -> Progress:
        phases = state.phase_log()
        return Progress(
            step=state.step,
            plan=self._plan,
            phases=phases,
            corpus=phases[-1].within(self._corpus),
            replay=phases[-1].within(self._replay),
            left={name: rows - state.cursors.get(name, 0) for name, rows in self._allowed.items()},
            decisions=state.decisions,
            teacher=state.teacher,
        )

    def _phase(self, step: int, progress: Progress, moving: Mapping[str, Decision]) -> Phase:
        last = progress.phases[-1]
        ratio, weights = last.ratio, dict(last.weights or {})
        for decision in moving.values():
            ratio = decision.ratio if decision.ratio is not None else ratio
            weights.update(decision.weights or {})
        return replace(last, first_step=step, ratio=ratio, reason="+".join(moving), skipped={}, weights=weights or None)


def controllers_of(snapshot: Snapshot, plan: Plan) -> dict[str, Controller]:
    """The controllers of a snapshot, by the reason that they write into the phase log."""
    result: dict[str, Controller] = {}
    adaptive = snapshot.replay.adaptive
    if adaptive is not None:
        result[BUDGET] = ForgettingBudget(
            adaptive.forgetting_budget, float(share(adaptive.minimum)), float(share(adaptive.maximum))
        )
    mixture, every = snapshot.mixture, look_every(snapshot, plan)
    if mixture is not None and mixture.domain_discrepancy is not None:
        result[MIXTURE] = DomainDiscrepancy(mixture.domain_discrepancy.smoothing, every)
    if mixture is not None and mixture.skill_graph is not None:
        graph = {(edge.source, edge.helps): edge.weight for edge in mixture.skill_graph.edges}
        result[MIXTURE] = SkillGraph(mixture.skill_graph.rate, mixture.skill_graph.window, graph, every)
    return result


def look_every(snapshot: Snapshot, plan: Plan) -> int:
    """Tokens between the looks that a mixture's rule needs, at least a step; 0: it needs none."""
    if snapshot.mixture is None:
        return 0
    return max(plan.tokens_per_step, parse_length(snapshot.mixture.every, plan.tokens))


def losses_of(evaluations: Sequence[Mapping[str, Any]]) -> Losses:
    """The looks of a state by set, oldest first."""
    looks: dict[str, list[SetLook]] = {}
    roles: dict[str, Role] = {}
    for look in evaluations:
        for name, line in look["sets"].items():
            delta = None if line["delta"] is None else Delta.from_json(line["delta"])
            looks.setdefault(name, []).append(SetLook(look["tokens"], line["loss"], delta))
            roles[name] = Role(line["role"])
    return {name: SetHistory(roles[name], found) for name, found in looks.items()}


def _told(decision: Decision, state: TrainState) -> dict[str, Any]:
    """A decision as the state and the log keep it."""
    return {"what": decision.what, "why": decision.why, "step": state.step, "tokens": state.tokens, **decision.facts}

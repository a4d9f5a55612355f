"""What a run would do, as plain facts: a pure function of the snapshot, the plan and the weights of the sources.

Decides no number of its own: schedule, mixture and marks are the trainer's, so that the plan shown is the plan run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewarm_api.controller_rules import share
from rewarm_api.errors import ManifestError, Problem
from rewarm_api.phase_plan import mean_ratio
from rewarm_api.pins import Pins
from rewarm_api.quantity import QuantityError, format_tokens, parse_length, parse_tokens
from rewarm_api.snapshot import Group, Plan, Snapshot
from rewarm_trainer import marks
from rewarm_trainer.order import Phase
from rewarm_trainer.phases import PhasedMixture, planned_log, requested_ratio
from rewarm_trainer.schedule import learning_rate, within


def needs_counts(snapshot: Snapshot) -> bool:
    """Whether only the data can tell the plan: a budget in epochs, or several sources of a group without weights."""
    groups = [Group.CORPUS, *([Group.REPLAY] if mean_ratio(snapshot.replay.ratio, snapshot.phases) > 0 else [])]
    unweighted = any(
        len(snapshot.group(group)) > 1 and any(source.weight is None for source in snapshot.group(group))
        for group in groups
    )
    return snapshot.budget.epochs is not None or unweighted


def mixture_of(snapshot: Snapshot, pins: Pins | None = None, plan: Plan | None = None) -> PhasedMixture:
    """The run's mixture, phase by phase; `plan` where neither snapshot nor pins have one.

    Without pins, call only when `needs_counts` is false: a lone source needs no weight.
    """
    plan = plan or (pins.plan if pins else snapshot.plan)
    assert plan is not None

    def weights(group: Group) -> dict[str, float]:
        if pins is not None:
            return {source.name: pins.sources[source.name].weight for source in snapshot.group(group)}
        return {source.name: source.weight or 1.0 for source in snapshot.group(group)}

    replay = weights(Group.REPLAY)
    if not replay and snapshot.replay.from_run is not None:
        former = snapshot.replay.from_run
        replay = {f"rows of {former.name or former.path}": 1.0}
    corpus = weights(Group.CORPUS)
    return PhasedMixture(_log_of(snapshot, plan, {*corpus, *replay}), corpus, replay, plan.rows_per_step)


def _log_of(snapshot: Snapshot, plan: Plan, names: set[str]) -> list[Phase]:
    """The planned phases; weights of an earlier run's sources are left out where these stand as one."""
    log = planned_log(plan, snapshot.replay.ratio)
    return [
        phase if phase.weights is None or phase.weights.keys() <= names else replace(phase, weights=own)
        for phase in log
        for own in [{name: weight for name, weight in (phase.weights or {}).items() if name in names}]
    ]


def parse_positions(text: str, plan: Plan) -> tuple[int, ...]:
    """Token counts of `--at 0,20M,2B`; each within the plan (ManifestError, 64, otherwise)."""
    positions = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            tokens = parse_tokens(int(item) if item.isdecimal() else item, minimum=0)
        except QuantityError as error:
            raise ManifestError(Problem("--at", item, error.expected, error.fix)) from None
        if tokens > plan.tokens:
            raise ManifestError(
                Problem("--at", item, f"at most the plan's {plan.tokens} tokens", "ask for an earlier position")
            )
        positions.append(tokens)
    return tuple(positions)


def at_position(plan: Plan, mixture: PhasedMixture, sequence_length: int, tokens: int) -> dict[str, Any]:
    """Learning rate at `tokens`, and rows by source among the first floor(tokens / sequence length) rows."""
    return {
        "tokens": tokens,
        "learning_rate": learning_rate(plan.segments, tokens),
        "sources": mixture.counts(tokens // sequence_length),
    }


def checkpoint_count(plan: Plan) -> int:
    """How many checkpoints the token marks commit, the last update's included; those by minutes come on top."""
    if plan.checkpoint_every <= plan.tokens_per_step:
        return plan.steps
    fired = plan.tokens // plan.checkpoint_every
    last_fires = marks.fires(plan.checkpoint_every, plan.tokens - plan.tokens_per_step, plan.tokens)
    return fired + (0 if last_fires else 1)


def plan_facts(
    snapshot: Snapshot,
    plan: Plan,
    mixture: PhasedMixture,
    *,
    pins: Pins | None = None,
    at: Iterable[int] = (),
    parameters: int | None = None,
) -> dict[str, Any]:
    """The JSON of `rewarm plan` (design: cli.md), and more: sources, looks, checkpoints, cost.

    `parameters` of the model, where they are known without loading it; unknown numbers are None.
    """
    length = snapshot.training.sequence_length
    starts = {0, *(phase.first_step for phase in plan.phases)}
    looks = len(marks.evaluation_steps(plan, starts))
    return {
        "name": snapshot.name,
        "tokens": plan.tokens,
        "steps": plan.steps,
        "tokens_per_step": plan.tokens_per_step,
        "requested_tokens": plan.requested_tokens,
        "rows_per_step": plan.rows_per_step,
        "sequence_length": length,
        "trunk": plan.trunk,
        "segments": [
            {
                "kind": str(segment.kind),
                "start": segment.begins,
                "end": segment.ends,
                "from": within(segment, segment.begins),
                "to": within(segment, segment.ends),
            }
            for segment in plan.segments
            if segment.ends > segment.begins
        ],
        "phases": _phases(snapshot, plan, mixture),
        "at": [at_position(plan, mixture, length, tokens) for tokens in at],
        "replay_ratio": requested_ratio(plan, snapshot.replay.ratio),
        "controllers": _controllers(snapshot, plan),
        "cited": None if snapshot.replay.cited is None else snapshot.replay.cited.to_json(),
        "sources": _sources(snapshot, plan, mixture, pins),
        "evaluation": {"every": plan.evaluation_every, "looks": looks, "sets": _sets(snapshot)},
        "checkpoints": {"every": plan.checkpoint_every, "count": checkpoint_count(plan)},
        "cost": _cost(snapshot, plan, mixture, looks, parameters),
        "snapshot_digest": snapshot.digest,
    }


def _phases(snapshot: Snapshot, plan: Plan, mixture: PhasedMixture) -> list[dict[str, Any]]:
    """Each phase of the manifest: its steps, its tokens by source, and the learning rate at its two ends.

    `from` is the rate that the phase begins at, `before` the rate of the update before it: where they differ the
    schedule jumps.
    """
    facts = []
    for asked, phase in zip(snapshot.phases, plan.phases, strict=True):
        first, end = phase.first_step, phase.first_step + phase.steps
        before, after = (mixture.counts(step * plan.rows_per_step) for step in (first, end))
        rate, batch = asked.learning_rate, plan.tokens_per_step
        last = learning_rate(plan.segments, first * batch)
        facts.append(
            {
                "name": phase.name,
                "first_step": first + 1,
                "last_step": end,
                "tokens": phase.steps * batch,
                "order_by": phase.order_by,
                "sequence_length": phase.sequence_length or snapshot.training.sequence_length,
                "replay_ratio": snapshot.replay.ratio if phase.ratio is None else phase.ratio,
                "sources": {
                    name: (after[name] - before[name]) * snapshot.training.sequence_length for name in mixture.sources
                },
                "before": last if first else None,
                "from": last if rate is None else rate.first,
                "to": learning_rate(plan.segments, end * batch),
            }
        )
    return facts


def _sources(snapshot: Snapshot, plan: Plan, mixture: PhasedMixture, pins: Pins | None) -> dict[str, Any]:
    length = snapshot.training.sequence_length
    rows = mixture.counts(plan.steps * plan.rows_per_step)
    groups = {source.name: str(source.group) for source in snapshot.sources}
    return {
        name: {
            "group": groups.get(name, str(Group.REPLAY)),
            "rows": count,
            "tokens": count * length,
            "share": count / (plan.steps * plan.rows_per_step),
            "epochs": None if pins is None or name not in pins.sources else count / pins.sources[name].rows,
        }
        for name, count in rows.items()
    }


def _controllers(snapshot: Snapshot, plan: Plan) -> dict[str, Any]:
    """What may move the mixture that is shown here, which is where it starts."""
    adaptive, weighed = snapshot.replay.adaptive, snapshot.mixture
    return {
        "replay_ratio": None
        if adaptive is None
        else {
            "minimum": float(share(adaptive.minimum)),
            "maximum": float(share(adaptive.maximum)),
            "forgetting_budget": adaptive.forgetting_budget,
        },
        "weights": None
        if weighed is None
        else {
            "rule": "skillGraph" if weighed.skill_graph is not None else "domainDiscrepancy",
            "every": max(plan.tokens_per_step, parse_length(weighed.every, plan.tokens)),
        },
    }


def _sets(snapshot: Snapshot) -> list[dict[str, str]]:
    return [{"name": item.name, "role": str(item.role)} for item in snapshot.evaluation.sets]


def _cost(snapshot: Snapshot, plan: Plan, mixture: PhasedMixture, looks: int, parameters: int | None) -> dict[str, Any]:
    counts = mixture.counts(plan.steps * plan.rows_per_step)
    replay = sum(count for name, count in counts.items() if name in mixture.replay)
    replay_tokens = replay * snapshot.training.sequence_length
    return {
        "training_tokens": plan.tokens,
        "new_tokens": plan.tokens - replay_tokens,
        "replay_tokens": replay_tokens,
        # Looks between baseline and final; those two score the full sets, whose size only the data can tell.
        "look_tokens_at_most": (looks - 1) * snapshot.evaluation.look_tokens * len(snapshot.evaluation.sets),
        "parameters": parameters,
        # Forward and backward of a dense transformer: 6 operations per parameter and token (Kaplan 2020, 2001.08361).
        "training_flops": None if parameters is None else 6 * parameters * plan.tokens,
        # Weights and two moments in FP32.
        "checkpoint_bytes": None if parameters is None else 12 * parameters,
    }


def default_positions(plan: Plan) -> Sequence[int]:
    """Where a person looks first: both ends of every segment."""
    present = [segment for segment in plan.segments if segment.ends > segment.begins]
    return sorted({0, *(segment.ends for segment in present)})


def summary(facts: Mapping[str, Any]) -> list[str]:
    """The derived numbers in words."""
    cost, rows = facts["cost"], facts["rows_per_step"]
    asked = facts["requested_tokens"]
    lines = [
        f"{facts['name']}: {format_tokens(facts['tokens'])} tokens in {facts['steps']} steps of "
        f"{format_tokens(facts['tokens_per_step'])} ({rows} rows of {facts['sequence_length']})",
        f"looks: baseline and {facts['evaluation']['looks']} on {len(facts['evaluation']['sets'])} sets, every "
        f"{format_tokens(facts['evaluation']['every'])} tokens and denser early; checkpoints: "
        f"{facts['checkpoints']['count']}, every {format_tokens(facts['checkpoints']['every'])} tokens",
        f"cost: {format_tokens(cost['new_tokens'])} new tokens and {format_tokens(cost['replay_tokens'])} of replay, "
        f"at most {format_tokens(cost['look_tokens_at_most'])} scored in looks beside baseline and final",
    ]
    if cited := facts["cited"]:
        source = f"from study {cited['study']}, to keep old text within {cited['tolerance']} of the base"
        lines.insert(1, f"replay ratio {cited['ratio']:g} {source}")
    if asked != facts["tokens"]:
        lines.insert(1, f"budget of {asked} tokens rounded up to whole steps: {facts['tokens']}")
    if cost["parameters"] is not None:
        lines.append(
            f"model: {format_tokens(cost['parameters'])} parameters, {cost['training_flops']:.2e} operations, "
            f"{cost['checkpoint_bytes'] / 1e6:,.0f} MB a checkpoint"
        )
    lines += [
        f"phase {phase['name']}: the learning rate jumps from {phase['before']:g} to {phase['from']:g}"
        for phase in facts["phases"]
        if phase["before"] is not None and not math.isclose(phase["before"], phase["from"], rel_tol=1e-9)
    ]
    moves, weights = facts["controllers"]["replay_ratio"], facts["controllers"]["weights"]
    if moves is not None:
        lines.append(
            f"replay starts at {facts['replay_ratio']:.2%} and moves between {moves['minimum']:.2%} and "
            f"{moves['maximum']:.2%} to a forgetting budget of {moves['forgetting_budget']:g} nats per token"
        )
    if weights is not None:
        lines.append(
            f"weights of sources start even and follow {weights['rule']}, "
            f"every {format_tokens(weights['every'])} tokens"
        )
    if facts["trunk"]:
        lines.append("a trunk: it ends without an anneal and is never promoted")
    return lines

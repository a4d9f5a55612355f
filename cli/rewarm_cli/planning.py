"""What a run would do, as plain facts: a pure function of the snapshot, the plan and the weights of the sources.

Decides no number of its own: schedule, mixture and marks are the trainer's, so that the plan shown is the plan run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rewarm_api.controller_rules import share
from rewarm_api.errors import ManifestError, Problem
from rewarm_api.quantity import QuantityError, format_tokens, parse_length, parse_tokens
from rewarm_api.snapshot import Group, Pins, Plan, Snapshot
from rewarm_trainer import marks
from rewarm_trainer.mixture import Mixture, exact
from rewarm_trainer.schedule import learning_rate


def needs_counts(snapshot: Snapshot) -> bool:
    """Whether only the data can tell the plan: a budget in epochs, or several sources of a group without weights."""
    groups = [Group.CORPUS, *([Group.REPLAY] if snapshot.replay.ratio > 0 else [])]
    unweighted = any(
        len(snapshot.group(group)) > 1 and any(source.weight is None for source in snapshot.group(group))
        for group in groups
    )
    return snapshot.plan is None or unweighted


def mixture_of(snapshot: Snapshot, pins: Pins | None = None) -> Mixture:
    """The run's mixture. Without pins, call only when `needs_counts` is false: a lone source needs no weight."""

    def weights(group: Group) -> dict[str, Any]:
        if pins is not None:
            return {source.name: exact(pins.sources[source.name].weight) for source in snapshot.group(group)}
        return {source.name: exact(source.weight or 1.0) for source in snapshot.group(group)}

    replay = weights(Group.REPLAY)
    if not replay and snapshot.replay.from_run is not None:
        former = snapshot.replay.from_run
        replay = {f"rows of {former.name or former.path}": exact(1)}
    return Mixture(exact(snapshot.replay.ratio), weights(Group.CORPUS), replay)


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


def at_position(plan: Plan, mixture: Mixture, sequence_length: int, tokens: int) -> dict[str, Any]:
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
    mixture: Mixture,
    *,
    pins: Pins | None = None,
    at: Iterable[int] = (),
    parameters: int | None = None,
) -> dict[str, Any]:
    """The JSON of `rewarm plan` (design: cli.md), and more: sources, looks, checkpoints, cost.

    `parameters` of the model, where they are known without loading it; unknown numbers are None.
    """
    length = snapshot.training.sequence_length
    looks = len(marks.evaluation_steps(plan))
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
                "start": segment.start,
                "end": segment.end,
                "from": segment.first,
                "to": segment.last,
            }
            for segment in plan.segments
            if segment.end > segment.start
        ],
        "at": [at_position(plan, mixture, length, tokens) for tokens in at],
        "replay_ratio": snapshot.replay.ratio,
        "controllers": _controllers(snapshot, plan),
        "sources": _sources(snapshot, plan, mixture, pins),
        "evaluation": {"every": plan.evaluation_every, "looks": looks, "sets": _sets(snapshot)},
        "checkpoints": {"every": plan.checkpoint_every, "count": checkpoint_count(plan)},
        "cost": _cost(snapshot, plan, mixture, looks, parameters),
        "snapshot_digest": snapshot.digest,
    }


def _sources(snapshot: Snapshot, plan: Plan, mixture: Mixture, pins: Pins | None) -> dict[str, Any]:
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


def _cost(snapshot: Snapshot, plan: Plan, mixture: Mixture, looks: int, parameters: int | None) -> dict[str, Any]:
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
    present = [segment for segment in plan.segments if segment.end > segment.start]
    return sorted({0, *(segment.end for segment in present)})


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
    if asked != facts["tokens"]:
        lines.insert(1, f"budget of {asked} tokens rounded up to whole steps: {facts['tokens']}")
    if cost["parameters"] is not None:
        lines.append(
            f"model: {format_tokens(cost['parameters'])} parameters, {cost['training_flops']:.2e} operations, "
            f"{cost['checkpoint_bytes'] / 1e6:,.0f} MB a checkpoint"
        )
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

"""A skill graph learned from runs: which source helps which (Skill-it, Chen et al. 2023, 2307.14430).

    edge i -> j   where the loss on j is lower after training on i and j than after training on j alone, equal tokens
    weight        the relative drop of that loss, (L_j(j) - L_j(i and j)) / L_j(j)        [recalled, not checked]

An edge stands only where the paired interval over the documents of j lies below zero: what one pair of runs shows by
chance is no help. One run each, so seed noise is not seen. Pure; `rewarm_trainer.skills` reads the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.snapshot import Group, Snapshot

Trained = frozenset[str]
"""The corpus sources that a run drew from."""


@dataclass(frozen=True)
class Help:
    """What a second source did to a source's loss. delta: pair minus alone, nats per token, negative helps."""

    source: str
    helps: str
    delta: float
    low: float
    high: float
    weight: float | None
    """Of the edge; None where the interval does not lie below zero."""


def trained_on(snapshot: Snapshot) -> Trained:
    """Sources with a weight above 0 in the one phase of a learning run. ManifestError (64) for any other run."""
    weights = snapshot.phases[0].weights if len(snapshot.phases) == 1 else None
    chosen = frozenset(name for name, weight in (weights or {}).items() if weight > 0)
    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    if not chosen or not chosen <= corpus or len(chosen) > 2:
        found = ", ".join(sorted(chosen)) or "no phase with weights"
        expected = "one phase with the weights of one source or two"
        raise ManifestError(
            Problem(f"{snapshot.name}: spec.phases", found, expected, "write the runs with python -m rewarm_api.skills")
        )
    return chosen


def helps_of(runs: Mapping[Trained, Any], compared: Any) -> list[Help]:
    """All ordered pairs of sources that have both runs. `compared(alone, pair)` gives `sets` as `compare` does."""
    found = []
    for pair in sorted((each for each in runs if len(each) == 2), key=sorted):
        for helped in sorted(pair):
            alone = frozenset({helped})
            if alone not in runs:
                continue
            (source,) = pair - alone
            line = compared(runs[alone], runs[pair])["sets"][helped]
            delta = line["delta"]
            drops = delta["high"] is not None and delta["high"] < 0
            weight = -delta["mean"] / line["first"]["loss"] if drops else None
            found.append(Help(source, helped, delta["mean"], delta["low"], delta["high"], weight))
    return found


def lines(helps: Sequence[Help]) -> list[str]:
    """YAML of `mixture.skillGraph`, with what was found as comments."""
    edges = [
        f"    - {{source: {each.source}, helps: {each.helps}, weight: {min(1.0, each.weight):.4g}}}"
        for each in helps
        if each.weight
    ]
    told = []
    for each in helps:
        bounds = "too few documents" if each.low is None else f"[{each.low:+.4f}, {each.high:+.4f}]"
        told.append(
            f"# {each.source} beside {each.helps}: loss of {each.helps} {each.delta:+.4f} {bounds} nats per token"
        )
    return [*told, "mixture:", "  skillGraph:", *(["    edges:", *edges] if edges else ["    edges: []"])]

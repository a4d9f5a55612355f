"""Phases in whole steps, and what their learning rates make of the schedule. Pure.

    schedule      /--------.__________________          one row of segments over the whole plan
    phases        |        a        |    b    |         b brings a learning rate of its own
    plan          /--------.________|`-.      |         the schedule's segments end at the border

A segment that a phase cuts keeps its curve and is used on a part of it (`Segment.begins`, `Segment.ends`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from rewarm_api import phases as spec
from rewarm_api.quantity import exact, parse_percent
from rewarm_api.snapshot import PhaseRate, PlannedPhase, RunPhase, Segment, SegmentKind

DEFAULT_SCORE = "score"


def borders(shares: Sequence[str], steps: int) -> list[tuple[int, int]]:
    """[start, end) of each phase in steps: a border is the step nearest to its share, floor(share * steps + 1/2).

    Rounded from the start of the plan, so that no phase is more than half a step off at either end.
    """
    passed, edges = Fraction(0), [0]
    for share in shares:
        passed += Fraction(parse_percent(share)) / 100
        edges.append(int(passed * steps + Fraction(1, 2)))
    return list(pairwise(edges))


def resolved(given: Sequence[spec.RunPhase]) -> tuple[RunPhase, ...]:
    """The phases of a manifest as a snapshot keeps them."""
    return tuple(
        RunPhase(
            name=phase.name,
            share=phase.share,
            weights=None if phase.weights is None else dict(sorted(phase.weights.items())),
            replay_ratio=phase.replay_ratio,
            learning_rate=None if phase.learning_rate is None else PhaseRate(**phase.learning_rate.model_dump()),
            order_by=(phase.order_by or DEFAULT_SCORE) if phase.order == "Ascending" else "",
            sequence_length=phase.sequence_length or 0,
        )
        for phase in given
    )


def mean_ratio(ratio: float, phases: Sequence[RunPhase]) -> Fraction:
    """The replay share of the whole plan: `ratio` where a phase names none, weighted by the phases' shares."""
    if not phases:
        return exact(ratio)
    parts = (
        Fraction(parse_percent(phase.share)) / 100 * exact(ratio if phase.replay_ratio is None else phase.replay_ratio)
        for phase in phases
    )
    return sum(parts, Fraction(0))


def planned(phases: Sequence[RunPhase], steps: int) -> tuple[PlannedPhase, ...]:
    """The phases of a plan of `steps` steps."""
    edges = borders([phase.share for phase in phases], steps)
    return tuple(
        PlannedPhase(
            name=phase.name,
            first_step=start,
            steps=end - start,
            weights=phase.weights,
            ratio=phase.replay_ratio,
            order_by=phase.order_by,
            sequence_length=phase.sequence_length,
        )
        for phase, (start, end) in zip(phases, edges, strict=True)
    )


def with_rates(
    segments: Sequence[Segment], phases: Sequence[RunPhase], steps: int, tokens_per_step: int
) -> tuple[Segment, ...]:
    """The schedule's segments, replaced wherever a phase brings its own learning rate."""
    for phase, (start, end) in zip(phases, borders([phase.share for phase in phases], steps), strict=True):
        if phase.learning_rate is not None:
            own = _segment(phase.learning_rate, start * tokens_per_step, end * tokens_per_step)
            segments = [*_cut(segments, 0, own.start), own, *_cut(segments, own.end, steps * tokens_per_step)]
    return tuple(segments)


def _segment(rate: PhaseRate, start: int, end: int) -> Segment:
    kind = SegmentKind.DECAY
    if rate.first <= rate.last:
        kind = SegmentKind.WARMUP if rate.first < rate.last else SegmentKind.CONSTANT
    return Segment(
        kind=kind, start=start, end=end, first=rate.first, last=rate.last, decay=rate.decay, timescale=rate.timescale
    )


def _cut(segments: Sequence[Segment], start: int, end: int) -> list[Segment]:
    """What lies within [start, end] tokens."""
    parts = []
    for segment in segments:
        begins, ends = max(segment.begins, start), min(segment.ends, end)
        if begins < ends:
            bounds = {
                "since": None if begins == segment.start else begins,
                "until": None if ends == segment.end else ends,
            }
            parts.append(segment.model_copy(update=bounds))
    return parts

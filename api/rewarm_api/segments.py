"""The pieces of the learning-rate schedule in tokens, and whether they fit into the plan (trainer.md, "Schedule").

Warm-up comes first, decay or anneal ends with the plan, and what is left over belongs to the constant segment.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewarm_api.errors import Problem
from rewarm_api.quantity import is_percent, parse_length
from rewarm_api.snapshot import Decay, Schedule, Segment, SegmentKind

BRANCH = "spec.baseModel.run.anneal.length"


@dataclass(frozen=True)
class Lengths:
    """The lengths of a schedule as text, None where the kind has no such segment."""

    kind: str
    warmup: str
    cooldown: str | None
    anneal: str | None
    decay: str | None

    def fields(self) -> list[tuple[str, str, str]]:
        """(segment in words, field to edit, length) in the order in which they take their share of the plan."""
        found = [
            ("warm-up", "spec.schedule.warmup", self.warmup),
            ("cooldown", "spec.schedule.cooldown.length", self.cooldown),
            ("anneal", BRANCH if self.kind == "Anneal" else "spec.schedule.anneal.length", self.anneal),
            ("decay", "spec.schedule.decayLength", self.decay),
        ]
        return [(words, path, length) for words, path, length in found if length is not None]


def length_problem(lengths: Lengths, plan_tokens: int | None) -> Problem | None:
    """The first segment that no longer fits, or None. Without plan tokens (epochs) only percentages can be judged."""
    taken = 0
    whole = plan_tokens or 10**20
    for words, path, length in lengths.fields():
        tokens = 0 if plan_tokens is None and not is_percent(length) else parse_length(length, whole)
        if taken + tokens > whole:
            return _too_long(words, path, length, tokens, taken, plan_tokens)
        taken += tokens
    return None


def _too_long(words: str, path: str, length: str, tokens: int, taken: int, plan_tokens: int | None) -> Problem:
    if plan_tokens is None:
        before = f" after {taken * 100 // 10**20}% for the segments before it" if taken else ""
        return Problem(path, length + before, "segments of at most 100% of the plan", f"shorten the {words}")
    shown = f"{length} ({tokens} tokens)" if is_percent(length) else f"{length} tokens"
    before = f", {taken} of which go to the segments before it" if taken else ""
    return Problem(
        path, shown, f"at most the plan's {plan_tokens} tokens{before}", f"shorten the {words} or raise the budget"
    )


def build_segments(schedule: Schedule, plan_tokens: int, trunk_rate: float | None = None) -> tuple[Segment, ...]:
    """The segments of a schedule that fits into the plan, in order; those without length are left out.

    `trunk_rate`: the learning rate at which the trunk of a branch (kind Anneal) stands.
    """
    if schedule.kind == "Anneal":
        return tuple(piece for piece in _branch(schedule, plan_tokens, trunk_rate) if piece.end > piece.start)
    peak, final = schedule.peak_learning_rate, schedule.final_learning_rate
    warmup = parse_length(schedule.warmup, plan_tokens)
    pieces = [Segment(kind=SegmentKind.WARMUP, start=0, end=warmup, first=0.0, last=peak)]
    if schedule.kind == "Rewarm":
        pieces.append(_decay(schedule, warmup, plan_tokens, peak, final))
    elif schedule.kind == "WarmupStableDecay":
        start = plan_tokens - parse_length(_given(schedule.decay_length), plan_tokens)
        pieces += [_constant(warmup, start, peak), _decay(schedule, start, plan_tokens, peak, final)]
    elif schedule.kind == "Infinite":
        pieces += _infinite(schedule, warmup, plan_tokens)
    else:
        pieces.append(_constant(warmup, plan_tokens, peak))
    return tuple(piece for piece in pieces if piece.end > piece.start)


def _branch(schedule: Schedule, plan_tokens: int, trunk_rate: float | None) -> list[Segment]:
    """At the trunk's rate, then down to the final one: no warm-up, the optimizer goes on."""
    assert trunk_rate is not None, "a branch is planned once its trunk was read"
    start = plan_tokens - parse_length(_given(schedule.anneal_length), plan_tokens)
    return [_constant(0, start, trunk_rate), _anneal(schedule, start, plan_tokens, trunk_rate)]


def _anneal(schedule: Schedule, start: int, end: int, first: float) -> Segment:
    return Segment(
        kind=SegmentKind.ANNEAL,
        start=start,
        end=end,
        first=first,
        last=schedule.final_learning_rate,
        decay=schedule.anneal_decay or Decay.EXPONENTIAL,
        timescale=schedule.anneal_timescale,
    )


def _infinite(schedule: Schedule, warmup: int, plan_tokens: int) -> list[Segment]:
    peak, constant = schedule.peak_learning_rate, schedule.constant_learning_rate
    assert constant is not None
    assert schedule.cooldown_decay is not None
    cooled = warmup + parse_length(_given(schedule.cooldown_length), plan_tokens)
    anneal = 0 if schedule.anneal_length is None else parse_length(schedule.anneal_length, plan_tokens)
    return [
        Segment(
            kind=SegmentKind.COOLDOWN,
            start=warmup,
            end=cooled,
            first=peak,
            last=constant,
            decay=schedule.cooldown_decay,
            timescale=schedule.cooldown_timescale,
        ),
        _constant(cooled, plan_tokens - anneal, constant),
        _anneal(schedule, plan_tokens - anneal, plan_tokens, constant),
    ]


def _constant(start: int, end: int, rate: float) -> Segment:
    return Segment(kind=SegmentKind.CONSTANT, start=start, end=end, first=rate, last=rate)


def _decay(schedule: Schedule, start: int, end: int, first: float, last: float) -> Segment:
    assert schedule.decay is not None
    return Segment(
        kind=SegmentKind.DECAY,
        start=start,
        end=end,
        first=first,
        last=last,
        decay=schedule.decay,
        timescale=schedule.timescale,
    )


def _given(length: str | None) -> str:
    assert length is not None
    return length

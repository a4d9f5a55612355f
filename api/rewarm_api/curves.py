"""The learning rate at a number of tokens, as a pure function of a plan's segments.

A schedule is a row of segments (made by `rewarm_api.resolve`); each falls or rises from `first` to `last` along one
curve. Update k (from 1) uses `learning_rate(segments, k * tokens_per_step)`: the peak is applied at warm-up's end and
the final value at the last update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from rewarm_api.snapshot import Decay, Segment, SegmentKind

Curve = Callable[[float, float, float, float], float]


def linear(first: float, last: float, progress: float, timescale: float) -> float:
    """`P + (F - P) p`. Also the warm-up: from 0 it is `peak * t / w`."""
    return first + (last - first) * progress


def cosine(first: float, last: float, progress: float, timescale: float) -> float:
    """`F + (P - F)/2 (cos(pi p) + 1)`: Ibrahim et al. 2024 (2403.08763), Eq. 2; also the cosine cooldown of the
    infinite schedule (the same authors' gpt-neox PR 1194)."""
    return last + (first - last) / 2 * (math.cos(math.pi * progress) + 1)


def one_minus_sqrt(first: float, last: float, progress: float, timescale: float) -> float:
    """`F + (P - F)(1 - sqrt(p))`: Haegele et al. 2024 (2405.18392)."""
    return last + (first - last) * (1 - math.sqrt(progress))


def inverse_sqrt(first: float, last: float, progress: float, timescale: float) -> float:
    """`P + (F - P) h(p)/h(1)`, `h(p) = 1/sqrt(1 + timescale p) - 1`: the inverse-square-root cooldown of the infinite
    schedule (gpt-neox PR 1194, by the authors of 2403.08763).

    `h` is written with expm1 and log1p: the plain form cancels when `timescale` is small, where the limit is linear.
    """

    def bend(at: float) -> float:
        return math.expm1(-0.5 * math.log1p(timescale * at))

    return first + (last - first) * (bend(progress) / bend(1.0))


def exponential(first: float, last: float, progress: float, timescale: float) -> float:
    """`P (F/P)^p`, F > 0: the anneal of the infinite schedule (gpt-neox PR 1194).

    It reaches F at p = 1. A third-party port of 2503.02844 quotes another exponent, which would not.
    """
    return first * math.exp(math.log(last / first) * progress)


CURVES: Mapping[Decay, Curve] = {
    Decay.LINEAR: linear,
    Decay.COSINE: cosine,
    Decay.ONE_MINUS_SQRT: one_minus_sqrt,
    Decay.INVERSE_SQRT: inverse_sqrt,
    Decay.EXPONENTIAL: exponential,
}


def within(segment: Segment, tokens: int) -> float:
    """The learning rate of one segment at `tokens` in [start, end]; exactly `first` and `last` at its ends."""
    if not segment.start <= tokens <= segment.end:
        raise ValueError(f"tokens {tokens} outside the segment [{segment.start}, {segment.end}]")
    if tokens == segment.end:
        return segment.last
    if tokens == segment.start or segment.first == segment.last:
        return segment.first
    straight = segment.kind in (SegmentKind.WARMUP, SegmentKind.CONSTANT)
    curve = linear if straight else CURVES[segment.decay]
    progress = (tokens - segment.start) / (segment.end - segment.start)
    return curve(segment.first, segment.last, progress, segment.timescale)


def learning_rate(segments: Sequence[Segment], tokens: int) -> float:
    """The learning rate at `tokens`, a pure function.

    A border belongs to the earlier segment; a segment of length zero does not exist, so that a warm-up of 0 gives the
    peak at 0 tokens. Raises ValueError outside the schedule.
    """
    present = [segment for segment in segments if segment.ends > segment.begins]
    for segment in present:
        if tokens <= segment.ends:
            return within(segment, tokens)
    raise ValueError(f"tokens {tokens} beyond the schedule's end at {present[-1].ends if present else 0}")

"""Decides whether forgetting during training is an alarm, with one false-alarm rate over the whole run. Pure.

A run is looked at many times, on several sets. A 95 % interval at each look would cry wolf in many more than one run
in twenty. So 5 % are the chance of any false alarm in a run, over all looks and all Retained sets, and every look may
spend a part of it:

    spent  5 % |                        .-----'     level of a look =
               |                .------'              5 % x (tokens since the last test) / (tokens to be tested)
               |        .------'                          / number of Retained sets
             0 +-------'----------------------->    one-sided, against "delta is at most maxForgetting"
               settled                      plan end  tokens

This is the linear spending function of Lan and DeMets (1983) [R] with the union bound (Bonferroni) over looks and sets.
The levels add up to at most 5 % however many looks there are, wherever they lie and however much they depend on each
other: looks share their documents, so the true rate lies well below. The price is power: an alarm needs about 2.8
instead of 2 standard errors above the gate with 20 looks on one set.

What must hold besides keeps noise and the stability gap out, and can only lower the rate: both of the two newest looks
are settled, the older one was clear of the gate by its own 95 % interval, and the newer mean is not lower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.special import stdtr, stdtrit

from rewarm_api.snapshot import Plan, SegmentKind
from rewarm_trainer.forgetting import Look
from rewarm_trainer.statistics import MINIMUM_DOCUMENTS, Delta

FALSE_ALARMS = 0.05


def forgotten(looks: Mapping[str, Sequence[Look]], limit: float, plan: Plan, since: int) -> dict[str, Delta]:
    """The sets whose newest look is an alarm: forgotten by more than `limit` nats per token, and not recovering.

    `looks`: those of each Retained set, in order of tokens. `since`: tokens at which something was last done about it,
    or a phase began. Never at the plan's end: there the gates judge.
    """
    found = {}
    for name, history in looks.items():
        allowed = level([look.tokens for look in history], plan, since) / len(looks)
        if not allowed:
            continue
        older, newer = history[-2], history[-1]
        rising = newer.delta.mean >= older.delta.mean and older.delta.low > limit
        if rising and enough(older.delta) and enough(newer.delta) and above(newer.delta, limit) <= allowed:
            found[name] = newer.delta
    return found


def level(tokens: Sequence[int], plan: Plan, since: int) -> float:
    """What the newest of the looks at `tokens` may spend, over all sets; 0 where it may not be an alarm."""
    now = settled(plan, since, tokens[-1]) if tokens else 0
    if len(tokens) < 2 or tokens[-2] < now or tokens[-1] >= plan.tokens:
        return 0.0
    spent_to = tokens[-2] if len(tokens) > 2 and tokens[-3] >= now else now
    return FALSE_ALARMS * (tokens[-1] - spent_to) / (plan.tokens - settled(plan, 0, 1))


def settled(plan: Plan, since: int, now: int) -> int:
    """Tokens from which on a look is no longer in the stability gap: the warm-up has ended and a tenth of the plan has
    passed, and again a tenth of the plan after `since`. A warm-up that begins after `now` does not count yet."""
    tenth = -(-plan.tokens // 10)
    warm_ups = (segment for segment in plan.segments if segment.kind is SegmentKind.WARMUP and segment.begins < now)
    warm = max((segment.ends for segment in warm_ups), default=0)
    return max(warm, tenth, since + tenth if since else 0)


def enough(delta: Delta) -> bool:
    return delta.documents >= MINIMUM_DOCUMENTS


def above(delta: Delta, limit: float) -> float:
    """One-sided p of "delta is at most `limit`": the lower reach of its interval as standard errors of Student's t.

    So it is the wider of the two intervals that counts, and p < 0.025 exactly when `low` is above the limit.
    """
    reach = delta.mean - delta.low
    if math.isnan(reach):
        return 1.0
    if reach <= 0:
        return 0.0 if delta.mean > limit else 1.0
    freedom = max(1, delta.documents - 1)
    error = reach / float(stdtrit(freedom, (1 + delta.confidence) / 2))
    return float(stdtr(freedom, (limit - delta.mean) / error))

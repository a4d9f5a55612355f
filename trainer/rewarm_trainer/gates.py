"""Decides whether a candidate may be promoted, and what to do when forgetting shows during training.

Gates change neither exit code nor outcome. A gate is judged by confidence bounds, never by the mean alone:

    maxForgetting        Pass            Inconclusive           Fail
                    |--x--|            |---x---|             |--x--|
    delta ------------------------------ limit ------------------------>    minGain is its mirror image
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from rewarm_api.snapshot import Gates, Plan, Role
from rewarm_trainer.alarm import forgotten
from rewarm_trainer.forgetting import Look
from rewarm_trainer.statistics import MINIMUM_DOCUMENTS, Delta

Result = Literal["Pass", "Fail", "Inconclusive"]

FIRST_RAISE = 0.05
HIGHEST_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate: its limit, the value it judged (the worst set's, None without a set), the result, and why."""

    name: str
    limit: float
    value: float | None
    result: Result
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Promotion(NamedTuple):
    """Whether the candidate may take the alias, and the sentence that says why or why not."""

    promoted: bool
    reason: str


def judge(
    gates: Gates | None, sets: Mapping[str, tuple[Role, Delta]], negative_flips: Delta | None = None
) -> tuple[GateResult, ...]:
    """Every gate that was asked for, in the order of the manifest's fields; none asked, none judged.

    maxForgetting (nats per token, any Retained set): passes when the largest upper bound is below the limit, fails
    when the largest lower bound is above it. minGain (every New set): the other way round on -delta. In between, and
    below 30 documents in a set that would decide, Inconclusive. A set with enough documents that fails, fails the gate.
    maxNegativeFlips is an upper limit on `negative_flips`, the share of all benchmark items that the base had right and
    the candidate has wrong, likewise.
    """
    if gates is None:
        return ()
    results = []
    if gates.max_forgetting is not None:
        retained = {name: delta for name, (role, delta) in sets.items() if role is Role.RETAINED}
        results.append(_judge_one("maxForgetting", gates.max_forgetting, gates.max_forgetting, 1, retained))
    if gates.min_gain is not None:
        new = {name: delta for name, (role, delta) in sets.items() if role is Role.NEW}
        results.append(_judge_one("minGain", gates.min_gain, -gates.min_gain, -1, new))
    if gates.max_negative_flips is not None:
        results.append(_judge_flips(gates.max_negative_flips, negative_flips))
    return tuple(results)


def _judge_flips(limit: float, share: Delta | None) -> GateResult:
    """The gate maxNegativeFlips. Its exact upper bound is above zero also without a flip: a limit of 0 never passes."""
    name = "maxNegativeFlips"
    if share is None or not share.documents:
        return GateResult(name, limit, None, "Inconclusive", "no benchmark item to judge")
    found = f"{share.mean:.2%} of {share.documents} items (95 % {share.low:.2%} to {share.high:.2%})"
    if share.documents < MINIMUM_DOCUMENTS:
        why = f"too few items: {share.documents}, at least {MINIMUM_DOCUMENTS} are needed"
        return GateResult(name, limit, share.mean, "Inconclusive", why)
    if share.low > limit:
        return GateResult(name, limit, share.mean, "Fail", f"{found}, beyond the limit {limit:.2%}")
    if share.high < limit:
        return GateResult(name, limit, share.mean, "Pass", f"{found}, within the limit {limit:.2%}")
    return GateResult(name, limit, share.mean, "Inconclusive", f"{found}, not clear of the limit {limit:.2%}")


def _judge_one(name: str, limit: float, bound: float, sign: int, deltas: Mapping[str, Delta]) -> GateResult:
    """Judges deltas against an upper `bound`; `sign` turns a delta into the gate's own direction (gain = -delta)."""
    if not deltas:
        role = "Retained" if sign > 0 else "New"
        return GateResult(name, limit, None, "Inconclusive", f"no {role} set to judge")
    means = [delta.mean for delta in deltas.values()]
    value = sign * max(means) + 0.0 if all(map(math.isfinite, means)) else None
    few = {key: delta for key, delta in deltas.items() if delta.documents < MINIMUM_DOCUMENTS}
    enough = {key: delta for key, delta in deltas.items() if key not in few}
    over = {key: delta for key, delta in enough.items() if delta.low > bound}
    # Written so that a bound that is nan is not below the limit.
    open_sets = {key: delta for key, delta in enough.items() if not delta.high < bound}
    if over:
        worst = max(over, key=lambda key: over[key].low)
        return GateResult(name, limit, value, "Fail", _sentence(worst, over[worst], sign, limit, "beyond"))
    if few:
        small = min(few, key=lambda key: few[key].documents)
        why = f"too few documents: {small} has {few[small].documents}, at least {MINIMUM_DOCUMENTS} are needed"
        return GateResult(name, limit, value, "Inconclusive", why)
    if open_sets:
        widest = max(open_sets, key=lambda key: _or_infinite(open_sets[key].high))
        return GateResult(
            name, limit, value, "Inconclusive", _sentence(widest, open_sets[widest], sign, limit, "not clear of")
        )
    nearest = max(enough, key=lambda key: enough[key].high)
    return GateResult(name, limit, value, "Pass", _sentence(nearest, enough[nearest], sign, limit, "within"))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _sentence(name: str, delta: Delta, sign: int, limit: float, relation: str) -> str:
    mean, *ends = (sign * number + 0.0 for number in (delta.mean, delta.low, delta.high))
    low, high = ends if sign > 0 else reversed(ends)
    return f"{name} {mean:+.4f} (95 % {low:+.4f} to {high:+.4f}), {relation} the limit {limit:g}"


def promotion(results: Sequence[GateResult], trunk: bool) -> Promotion:
    """Promoted only when there are gates, all of them pass, and the run is no trunk (Infinite without an anneal)."""
    if trunk:
        return Promotion(False, "a trunk is never promoted: its schedule ends without an anneal")
    if not results:
        return Promotion(False, "no gates: without gates nothing is promoted")
    stopping = [result for result in results if result.result != "Pass"]
    if not stopping:
        return Promotion(True, "all gates pass: " + _joined(results))
    return Promotion(False, _joined(stopping))


def _joined(results: Sequence[GateResult]) -> str:
    return "; ".join(f"{result.name} {result.result} ({result.reason})" for result in results)


@dataclass(frozen=True, slots=True)
class Nothing:
    """Train on."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Say that `set` was forgotten by `value` nats per token, and train on."""

    set: str
    value: float
    why: str


@dataclass(frozen=True, slots=True)
class RaiseReplay:
    """Begin a phase at the next step boundary whose replay ratio is `to_ratio`."""

    from_ratio: float
    to_ratio: float
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End training here: evaluate, commit, judge."""

    why: str


Decision = Nothing | Warn | RaiseReplay | Stop


def watch(
    gates: Gates | None,
    plan: Plan,
    looks: Mapping[str, Sequence[Look]],
    *,
    ratio: float,
    can_raise: bool,
    since: int = 0,
    ceiling: float = HIGHEST_RATIO,
) -> Decision:
    """What gates.onForgetting asks for after the newest look: alarm.py says when a set counts as forgotten.

    `looks`: the looks of each Retained set, in order of tokens. `ratio`: the replay ratio now. `can_raise`: there are
    replay sources. `ceiling`: the highest ratio that the corpora allow, at most 0.5. RaiseReplay doubles the ratio,
    from 0 to 0.05, and becomes a warning where it cannot raise.
    """
    if gates is None or gates.max_forgetting is None:
        return Nothing()
    limit = gates.max_forgetting
    found = forgotten(looks, limit, plan, since)
    if not found:
        return Nothing()
    worst = max(found, key=lambda name: found[name].mean)
    delta = found[worst]
    why = f"{_sentence(worst, delta, 1, limit, 'beyond')} in two looks after the stability gap, and not falling"
    if gates.on_forgetting == "Stop":
        return Stop(why)
    if gates.on_forgetting == "RaiseReplay":
        highest = min(ceiling, HIGHEST_RATIO)
        raised = min(2 * ratio, highest) if ratio else min(FIRST_RAISE, highest)
        if can_raise and raised > ratio:
            return RaiseReplay(ratio, raised, why)
        obstacle = f"the replay ratio {ratio:g} is at its highest" if can_raise else "there are no replay sources"
        return Warn(worst, delta.mean, f"{why}; replay is not raised: {obstacle}")
    return Warn(worst, delta.mean, why)

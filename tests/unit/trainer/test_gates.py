"""Gates by confidence bounds, promotion, and what to do about forgetting during training."""

from __future__ import annotations

import math

import pytest

from rewarm_api.snapshot import Gates, Plan, Role, Segment, SegmentKind
from rewarm_trainer.flips import exact_share
from rewarm_trainer.forgetting import Look
from rewarm_trainer.gates import Nothing, RaiseReplay, Stop, Warn, judge, promotion, watch
from rewarm_trainer.statistics import Delta


def delta(low: float, high: float, documents: int = 100) -> Delta:
    return Delta((low + high) / 2, low, high, 0.5, documents=documents)


def gates(forgetting: float | None = None, gain: float | None = None, action: str = "Warn") -> Gates:
    return Gates(max_forgetting=forgetting, min_gain=gain, on_forgetting=action)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 0.01, "Pass"),
        (-0.2, -0.1, "Pass"),
        (0.03, 0.04, "Fail"),
        (0.01, 0.03, "Inconclusive"),
        (0.01, 0.02, "Inconclusive"),
        (0.02, 0.03, "Inconclusive"),
        (math.nan, math.nan, "Inconclusive"),
    ],
)
def test_max_forgetting_by_its_bounds(low: float, high: float, expected: str) -> None:
    (result,) = judge(gates(forgetting=0.02), {"general": (Role.RETAINED, delta(low, high))})
    assert (result.name, result.limit, result.result) == ("maxForgetting", 0.02, expected)
    assert result.value is None if math.isnan(low) else result.value == (low + high) / 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.30, -0.20, "Pass"),
        (-0.04, -0.01, "Fail"),
        (0.10, 0.20, "Fail"),
        (-0.10, -0.02, "Inconclusive"),
        (-0.10, -0.05, "Inconclusive"),
    ],
)
def test_min_gain_is_the_mirror_image(low: float, high: float, expected: str) -> None:
    (result,) = judge(gates(gain=0.05), {"pubmed": (Role.NEW, delta(low, high))})
    assert (result.name, result.limit, result.result) == ("minGain", 0.05, expected)
    assert result.value == pytest.approx(-(low + high) / 2)


def flips(lost: int, items: int, limit: float = 0.03) -> tuple[str, float | None]:
    asked = Gates(max_forgetting=None, min_gain=None, max_negative_flips=limit, on_forgetting="Warn")
    (result,) = judge(asked, {}, exact_share(lost, items) if items else None)
    assert (result.name, result.limit) == ("maxNegativeFlips", limit)
    return result.result, result.value


def test_negative_flips_are_judged_by_their_exact_bounds() -> None:
    assert flips(0, 1000) == ("Pass", 0.0)
    assert flips(10, 1000) == ("Pass", 0.01)
    assert flips(25, 1000) == ("Inconclusive", 0.025)
    assert flips(60, 1000) == ("Fail", 0.06)
    assert flips(0, 100) == ("Inconclusive", 0.0), "no flip among 100 items leaves 3.6 % possible"
    assert flips(29, 29) == ("Inconclusive", 1.0), "too few items"
    assert flips(0, 0) == ("Inconclusive", None)
    assert flips(0, 10**6, limit=0.0)[0] == "Inconclusive", "that nothing at all flips cannot be shown"


def test_flips_stand_after_the_other_gates_and_keep_a_candidate_from_its_alias() -> None:
    asked = Gates(max_forgetting=0.02, min_gain=None, max_negative_flips=0.03, on_forgetting="Warn")
    sets = {"a": (Role.RETAINED, delta(0.0, 0.01))}
    results = judge(asked, sets, exact_share(60, 1000))
    assert [result.name for result in results] == ["maxForgetting", "maxNegativeFlips"]
    decided = promotion(results, trunk=False)
    assert not decided.promoted
    assert "6.00% of 1000 items (95 % 4.61% to 7.66%), beyond the limit 3.00%" in decided.reason
    assert promotion(judge(asked, sets, exact_share(1, 1000)), trunk=False).promoted


def test_the_worst_retained_set_decides() -> None:
    good, open_end, bad = delta(0.0, 0.01), delta(0.01, 0.03), delta(0.05, 0.06)
    sets = {"a": (Role.RETAINED, good), "b": (Role.RETAINED, open_end), "new": (Role.NEW, bad)}
    assert judge(gates(forgetting=0.02), sets)[0].result == "Inconclusive"
    (result,) = judge(gates(forgetting=0.02), sets | {"c": (Role.RETAINED, bad)})
    assert result.result == "Fail"
    assert result.value == pytest.approx(0.055)
    assert result.reason == "c +0.0550 (95 % +0.0500 to +0.0600), beyond the limit 0.02"


def test_gain_must_hold_on_every_new_set() -> None:
    sets = {"a": (Role.NEW, delta(-0.5, -0.4)), "b": (Role.NEW, delta(-0.04, -0.03))}
    (result,) = judge(gates(gain=0.05), sets)
    assert (result.result, result.value) == ("Fail", pytest.approx(0.035))
    assert result.reason == "b +0.0350 (95 % +0.0300 to +0.0400), beyond the limit 0.05"


def test_too_few_documents_are_inconclusive_whatever_they_say() -> None:
    for few in (delta(0.0, 0.01, 29), delta(0.5, 0.6, 29)):
        (result,) = judge(gates(forgetting=0.02), {"general": (Role.RETAINED, few)})
        assert result.result == "Inconclusive"
        assert result.reason == "too few documents: general has 29, at least 30 are needed"


def test_a_small_set_keeps_a_gate_open_but_does_not_shield_a_failure() -> None:
    small, good, bad = delta(0.0, 0.01, 5), delta(0.0, 0.01), delta(0.5, 0.6)
    sets = {"small": (Role.RETAINED, small), "big": (Role.RETAINED, good)}
    assert judge(gates(forgetting=0.02), sets)[0].result == "Inconclusive"
    assert judge(gates(forgetting=0.02), sets | {"big": (Role.RETAINED, bad)})[0].result == "Fail"


def test_a_gate_without_a_set_is_inconclusive() -> None:
    results = judge(gates(forgetting=0.02, gain=0.05), {})
    assert [(result.value, result.result, result.reason) for result in results] == [
        (None, "Inconclusive", "no Retained set to judge"),
        (None, "Inconclusive", "no New set to judge"),
    ]


def test_only_the_gates_that_were_asked_for() -> None:
    sets = {"general": (Role.RETAINED, delta(0.0, 0.01)), "pubmed": (Role.NEW, delta(-0.3, -0.2))}
    assert judge(None, sets) == judge(gates(), sets) == ()
    assert [result.name for result in judge(gates(forgetting=0.02, gain=0.05), sets)] == ["maxForgetting", "minGain"]
    assert judge(gates(gain=0.0), sets)[0].result == "Pass"


def test_promotion_needs_gates_that_all_pass_and_no_trunk() -> None:
    sets = {"general": (Role.RETAINED, delta(0.0, 0.01)), "pubmed": (Role.NEW, delta(-0.3, -0.2))}
    passed = judge(gates(forgetting=0.02, gain=0.05), sets)
    assert promotion(passed, trunk=False).promoted
    assert promotion(passed, trunk=True) == (False, "a trunk is never promoted: its schedule ends without an anneal")
    assert promotion((), trunk=False) == (False, "no gates: without gates nothing is promoted")
    promoted, reason = promotion(judge(gates(forgetting=0.02, gain=0.25), sets), trunk=False)
    assert not promoted
    assert reason == "minGain Inconclusive (pubmed +0.2500 (95 % +0.2000 to +0.3000), not clear of the limit 0.25)"


PLAN = Plan(
    requested_tokens=1000,
    tokens_per_step=10,
    rows_per_step=1,
    steps=100,
    tokens=1000,
    segments=(
        Segment(kind=SegmentKind.WARMUP, start=0, end=50, first=0.0, last=1.0),
        Segment(kind=SegmentKind.CONSTANT, start=50, end=1000, first=1.0, last=1.0),
    ),
    evaluation_every=50,
    checkpoint_every=100,
    trunk=False,
)


def history(*points: tuple[int, float], documents: int = 100) -> dict[str, list[Look]]:
    """(tokens, lower bound) of each look, oldest first; the mean lies 0.01 above."""
    return {"general": [Look(tokens, delta(low, low + 0.02, documents)) for tokens, low in points]}


FORGOTTEN = history((150, 0.1), (200, 0.2))


def act(action: str, looks: dict[str, list[Look]] = FORGOTTEN, ratio: float = 0.25, **given: object) -> object:
    return watch(gates(0.02, action=action), PLAN, looks, ratio=ratio, **({"can_raise": True} | given))


@pytest.mark.parametrize(
    ("why", "looks"),
    [
        ("no look yet", {"general": []}),
        ("one look only", history((150, 0.1))),
        ("still in the first tenth", history((50, 0.1), (150, 0.2))),
        ("one of the two looks not clearly above", history((150, 0.01), (200, 0.2))),
        ("falling, so it is recovering", history((150, 0.2), (200, 0.1))),
        ("nothing left to train", history((950, 0.1), (1000, 0.2))),
        ("too few documents", history((150, 0.1), (200, 0.2), documents=29)),
        ("no interval", history((150, math.nan), (200, math.nan))),
    ],
)
@pytest.mark.parametrize("action", ["Warn", "RaiseReplay", "Stop"])
def test_nothing_is_done_when(action: str, why: str, looks: dict[str, list[Look]]) -> None:
    assert act(action, looks) == Nothing(), why


def test_nothing_is_done_without_the_gate() -> None:
    for asked in (None, gates(gain=0.1, action="Stop")):
        assert watch(asked, PLAN, FORGOTTEN, ratio=0.25, can_raise=True) == Nothing()


def test_never_before_the_warm_up_has_ended() -> None:
    long = PLAN.model_copy(
        update={"segments": (Segment(kind=SegmentKind.WARMUP, start=0, end=180, first=0.0, last=1.0),)}
    )
    asked = gates(0.02, action="Stop")
    assert watch(asked, long, FORGOTTEN, ratio=0.25, can_raise=True) == Nothing()
    later = history((180, 0.1), (200, 0.2))
    assert isinstance(watch(asked, long, later, ratio=0.25, can_raise=True), Stop)


def test_after_acting_it_waits_a_tenth_of_the_plan() -> None:
    assert act("Stop", since=60) == Nothing()
    assert isinstance(act("Stop", since=50), Stop)


def test_the_three_actions_say_why() -> None:
    warning = act("Warn")
    assert warning == Warn("general", pytest.approx(0.21), warning.why)
    assert "general +0.2100 (95 % +0.2000 to +0.2200), beyond the limit 0.02" in warning.why
    assert act("Stop") == Stop(warning.why)
    assert act("RaiseReplay") == RaiseReplay(0.25, 0.5, warning.why)


def test_the_worst_set_is_named() -> None:
    looks = FORGOTTEN | {"wiki": history((150, 0.3), (200, 0.3))["general"]}
    assert act("Warn", looks).set == "wiki"


@pytest.mark.parametrize(
    ("ratio", "raised"), [(0.0, 0.05), (0.05, 0.1), (0.15, 0.3), (0.2, 0.4), (0.3, 0.5), (0.49, 0.5)]
)
def test_raising_doubles_from_nothing_to_a_twentieth_up_to_a_half(ratio: float, raised: float) -> None:
    assert act("RaiseReplay", ratio=ratio).to_ratio == raised


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"ratio": 0.5}, "the replay ratio 0.5 is at its highest"),
        ({"ratio": 0.6}, "the replay ratio 0.6 is at its highest"),
        ({"ratio": 0.25, "ceiling": 0.2}, "the replay ratio 0.25 is at its highest"),
        ({"ratio": 0.0, "can_raise": False}, "there are no replay sources"),
    ],
)
def test_what_cannot_be_raised_is_said_instead(given: dict[str, object], why: str) -> None:
    decision = act("RaiseReplay", **given)
    assert isinstance(decision, Warn)
    assert decision.why.endswith(f"replay is not raised: {why}")


def test_a_ceiling_cuts_the_raise() -> None:
    assert act("RaiseReplay", ratio=0.2, ceiling=0.3).to_ratio == 0.3

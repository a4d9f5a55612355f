"""Alarms during training: how often a run without forgetting has one, and how soon a run with it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from rewarm_api.snapshot import Plan, Segment, SegmentKind
from rewarm_trainer import alarm
from rewarm_trainer.alarm import above, forgotten, level, settled
from rewarm_trainer.forgetting import Look
from rewarm_trainer.statistics import Delta, paired_delta

PLAN = Plan(
    requested_tokens=10_000,
    tokens_per_step=10,
    rows_per_step=1,
    steps=1000,
    tokens=10_000,
    segments=(Segment(kind=SegmentKind.WARMUP, start=0, end=500, first=0.0, last=1.0),),
    evaluation_every=500,
    checkpoint_every=1000,
    trunk=False,
)
LIMIT = 0.02
RUNS, DOCUMENTS = 500, 60
# A bootstrap of 10,000 resamples costs the simulation minutes; fewer only make its quantiles noisier.
RESAMPLES = 200


def looks(tokens: list[int], differences: np.ndarray, labels: np.ndarray) -> list[Look]:
    """`differences`: nats per token of [look, document]."""
    found = (paired_delta(row * labels, labels, resamples=RESAMPLES) for row in differences)
    return [Look(where, delta) for where, delta in zip(tokens, found, strict=True)]


def alarms(histories: dict[str, list[Look]]) -> int | None:
    """Tokens of the first alarm of a run that is judged look by look, as training does it."""
    for count in range(1, len(next(iter(histories.values()))) + 1):
        seen = {name: history[:count] for name, history in histories.items()}
        if forgotten(seen, LIMIT, PLAN, 0):
            return seen[next(iter(seen))][-1].tokens
    return None


def naive(histories: dict[str, list[Look]]) -> bool:
    """What this module replaces: any settled look whose 95 % interval lies above the gate."""
    return any(
        look.delta.low > LIMIT and look.tokens >= settled(PLAN, 0, PLAN.tokens)
        for each in histories.values()
        for look in each
    )


def run(draw: np.random.Generator, *, truth: float, shared: float, own: float, skewed: bool) -> dict[str, list[Look]]:
    """Two sets, dense looks early and then every twentieth of the plan. Documents differ in how much they forget: by
    `shared` in all looks alike, by `own` in a way that drifts from look to look. What is expected is `truth`."""
    tokens = [40, 320, *range(500, 10_001, 500)]
    histories = {}
    for name in ("a", "b"):
        labels = np.round(np.exp(draw.normal(5, 1, DOCUMENTS))) + 1
        steps = draw.normal(size=(len(tokens), DOCUMENTS))
        drift = np.zeros_like(steps)
        for number in range(1, len(tokens)):
            drift[number] = 0.8 * drift[number - 1] + 0.6 * steps[number]
        noise = shared * draw.normal(size=DOCUMENTS) + own * drift
        if skewed:
            noise = 0.2 * (np.exp(noise / 0.2) - np.exp((shared**2 + own**2) / 0.08))
        histories[name] = looks(tokens, truth + noise, labels)
    return histories


@pytest.mark.parametrize(
    ("shared", "own", "skewed"),
    [(0.1, 0.02, False), (0.05, 0.1, False), (0.0, 0.1, False), (0.08, 0.05, True)],
    ids=["documents", "both", "looks", "skewed"],
)
def test_at_most_one_run_in_twenty_without_forgetting_has_an_alarm(shared: float, own: float, skewed: bool) -> None:
    """The true change lies on the gate itself, where false alarms are likeliest; 500 runs, so the rate is known to 1 %.
    The rule of one interval at each look is held beside it."""
    draw = np.random.default_rng(1)
    runs = [run(draw, truth=LIMIT, shared=shared, own=own, skewed=skewed) for _ in range(RUNS)]
    false = sum(alarms(each) is not None for each in runs) / RUNS
    cried_wolf = sum(naive(each) for each in runs) / RUNS
    assert false <= alarm.FALSE_ALARMS, (false, cried_wolf)
    assert cried_wolf > 0.05 or skewed, (false, cried_wolf)


def test_what_is_really_forgotten_is_found_early() -> None:
    draw = np.random.default_rng(2)
    runs = [run(draw, truth=LIMIT + 0.08, shared=0.1, own=0.02, skewed=False) for _ in range(100)]
    found = [alarms(each) for each in runs]
    assert sum(each is not None for each in found) >= 95
    assert np.median([each for each in found if each is not None]) <= 3000, "of 10,000; the gap's time is 1,000"


@given(
    tokens=st.lists(st.integers(0, 9_999), min_size=3, max_size=60, unique=True).map(sorted),
    since=st.lists(st.integers(0, 9_000), max_size=4).map(sorted),
)
def test_the_levels_add_up_to_the_rate_wherever_the_looks_lie(tokens: list[int], since: list[int]) -> None:
    """Whatever was done on the way: after each action the looks settle anew and spend only what is left."""
    spent = 0.0
    for count in range(1, len(tokens) + 1):
        acted = max([each for each in since if each < tokens[count - 1]], default=0)
        spent += level(tokens[:count], PLAN, acted)
    assert spent <= alarm.FALSE_ALARMS * (1 + 1e-9)


def test_looks_of_equal_distance_spend_alike_and_all_of_it() -> None:
    tokens = list(range(1000, 10_000, 500))
    levels = [level(tokens[:count], PLAN, 0) for count in range(1, len(tokens) + 1)]
    assert levels[0] == 0.0, "one settled look is no alarm"
    assert levels[1:] == pytest.approx([0.05 * 500 / 9000] * 17)
    assert level([*tokens, 10_000], PLAN, 0) == 0.0, "at the end the gates judge"


def test_the_level_is_shared_among_the_sets() -> None:
    """p = 0.002 is an alarm on one set of the run (0.05 x 500 / 9,000 = 0.0028) and none where there are two."""
    error = 0.01
    mean = LIMIT + float(stdtrit(99, 0.998)) * error
    newest = Delta(mean, mean - float(stdtrit(99, 0.975)) * error, 1.0, 0.0, documents=100)
    older = Delta(mean - 0.001, LIMIT + 0.001, 1.0, 0.0, documents=100)
    rising = [Look(1000, older), Look(1500, newest)]
    calm = [Look(tokens, Delta(0.0, -0.1, 0.1, 1.0, documents=100)) for tokens in (1000, 1500)]
    assert set(forgotten({"a": rising}, LIMIT, PLAN, 0)) == {"a"}
    assert forgotten({"a": rising, "b": calm}, LIMIT, PLAN, 0) == {}


def test_p_is_the_interval_read_backwards() -> None:
    draw = np.random.default_rng(3)
    labels = np.full(50, 100.0)
    delta = paired_delta((0.05 + 0.1 * draw.normal(size=50)) * labels, labels)
    assert above(delta, delta.low) == pytest.approx(0.025)
    assert above(delta, delta.mean) == pytest.approx(0.5)
    assert above(Delta(0.1, 0.1, 0.1, 0.0, documents=50), 0.05) == 0.0
    assert above(Delta(0.1, float("nan"), 0.1, 0.0, documents=50), 0.05) == 1.0

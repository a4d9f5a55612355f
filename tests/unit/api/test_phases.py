"""`spec.phases`: what is refused, where the borders lie, and what a phase's learning rate makes of the schedule."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.errors import ManifestError
from rewarm_api.manifest import set_path
from rewarm_api.phase_plan import borders, mean_ratio
from rewarm_api.resolve import epochs_to_tokens, make_plan, resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import Validation, validate
from rewarm_trainer.schedule import learning_rate

TWO = "[{name: a, uri: a.txt, license: MIT, weight: 1}, {name: b, uri: b.txt, license: MIT, weight: 2}]"
REPLAY = "{ratio: 0.25, sources: [{name: old, uri: old.txt, license: MIT}]}"
STEPS = {"spec.budget": "{tokens: 65536}"}
"""64 steps of 1,024 tokens."""
MIXED = {"spec.corpus.sources": TWO, "spec.replay": REPLAY}

REFUSALS: dict[str, tuple[str, tuple[str, str, str, str]]] = {
    "too little": (
        "[{name: a, share: 85%}, {name: b, share: 10%}]",
        ("spec.phases", "95%", "shares that add up to 100%", "add 5%"),
    ),
    "too much": (
        "[{name: a, share: 85%}, {name: b, share: 15.5%}]",
        ("spec.phases", "100.5%", "shares that add up to 100%", "take away 0.5%"),
    ),
    "nothing to train": (
        "[{name: a, share: 100%}, {name: b, share: 0%}]",
        ("spec.phases[1].share", "0%", "0% < share", "give the phase a share, or remove it"),
    ),
    "less than a step": (
        "[{name: a, share: 99.5%}, {name: b, share: 0.5%}]",
        ("spec.phases[1].share", "0.5% of 64 steps", "at least one step",
         "give the phase a larger share, or raise the budget"),
    ),
    "a name twice": (
        "[{name: a, share: 50%}, {name: a, share: 50%}]",
        ("spec.phases[1].name", "a, which spec.phases[0] has", "a name that no other phase has", "rename one of them"),
    ),
    "no such source": (
        "[{name: a, share: 100%, weights: {a: 1, b: 1, c: 1}}]",
        ("spec.phases[0].weights.c", "c", "the name of a source: a, b, old", "name a source, or remove it"),
    ),
    "half a group": (
        "[{name: a, share: 100%, weights: {a: 1, old: 2}}]",
        ("spec.phases[0].weights.b", "nothing", "a weight on all sources of a group or on none",
         "add b; a weight of 0 leaves it out"),
    ),
    "nothing of a group": (
        "[{name: a, share: 100%, weights: {a: 0, b: 0}}]",
        ("spec.phases[0].weights", "a: 0, b: 0", "a weight above 0 in each group", "raise one of them"),
    ),
    "exponential to zero": (
        "[{name: a, share: 100%, learningRate: {from: 1e-3, to: 0, decay: Exponential}}]",
        ("spec.phases[0].learningRate.to", "0", "0 < to with an Exponential decay",
         "raise to, or choose another decay"),
    ),
    "a rise that decays": (
        "[{name: a, share: 100%, learningRate: {from: 1e-4, to: 1e-3, decay: Cosine}}]",
        ("spec.phases[0].learningRate.decay", "Cosine", "Linear: this learning rate rises",
         "use Linear, or swap from and to"),
    ),
    "a timescale too much": (
        "[{name: a, share: 100%, learningRate: {from: 1e-3, to: 1e-4, timescale: 5}}]",
        ("spec.phases[0].learningRate.timescale", "timescale with a decay other than InverseSqrt",
         "timescale only with decay InverseSqrt", "remove timescale, or set decay to InverseSqrt"),
    ),
}  # fmt: skip


def test_a_phases_rows_are_whole_pieces_of_the_longest(check: Callable[..., Validation]) -> None:
    asked = "[{name: a, share: 100%, sequenceLength: LENGTH}]"
    settings = {"spec.training.sequenceLength": "96", "spec.training.globalBatchTokens": "960"}

    def problems(length: int) -> list[tuple[str, str, str, str]]:
        found = check({**settings, "spec.phases": asked.replace("LENGTH", str(length))}).problems
        return [(each.field, each.found, each.expected, each.fix) for each in found]

    assert not any(problems(length) for length in (1, 32, 48, 96))
    field = "spec.phases[0].sequenceLength"
    whole = "a length that divides training.sequenceLength 96: every row is cut into whole pieces"
    assert problems(40) == [(field, "40", whole, "use 32 or 48")]
    longest = "at most training.sequenceLength 96, the longest of the run"
    mend = "set training.sequenceLength to 192, and 96 on the phases that stay short"
    assert problems(192) == [(field, "192", longest, mend)]


@pytest.mark.parametrize(("phases", "problem"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(check: Callable[..., Validation], phases: str, problem: tuple[str, str, str, str]) -> None:
    found = check({**STEPS, **MIXED, "spec.phases": phases}).problems
    assert [(each.field, each.found, each.expected, each.fix) for each in found] == [problem]


def test_replay_in_a_phase_needs_something_to_replay(check: Callable[..., Validation]) -> None:
    (problem,) = check({"spec.phases": "[{name: a, share: 100%, replayRatio: 0.5}]"}).problems
    assert (problem.field, problem.found) == ("spec.phases[0].replayRatio", "0.5 without replay sources")
    assert check({"spec.phases": "[{name: a, share: 100%, replayRatio: 0}]"}).valid


def changed(document: dict[str, Any], changes: dict[str, str]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for path, text in changes.items():
        set_path(result, path, text)
    return result


def snapshot_of(document: dict[str, Any], **changes: str) -> Snapshot:
    changes = {**STEPS, **{f"spec.{name}": value for name, value in changes.items()}}
    run = validate(changed(document, changes), local=True).run
    assert run is not None
    return resolve(run, uid="u")


def test_a_plan_knows_its_phases_and_one_without_any_says_nothing(minimal: dict[str, Any]) -> None:
    plain = snapshot_of(minimal)
    assert "phases" not in plain.to_json()
    assert plain.plan is not None
    assert "phases" not in plain.plan.to_json()
    mixed = changed(minimal, MIXED)
    phases = "[{name: main, share: 85%}, {name: end, share: 15%, weights: {b: 3, a: 0}, replayRatio: 0.5}]"
    snapshot = snapshot_of(mixed, phases=phases)
    assert snapshot.plan is not None
    assert [(each.name, each.first_step, each.steps) for each in snapshot.plan.phases] == [
        ("main", 0, 54),
        ("end", 54, 10),
    ]
    assert (snapshot.plan.phases[1].weights, snapshot.plan.phases[1].ratio) == ({"a": 0.0, "b": 3.0}, 0.5)
    assert Snapshot.model_validate(snapshot.to_json()) == snapshot
    assert snapshot_of(mixed, phases=phases.replace("b: 3, a: 0", "a: 0, b: 3")).digest == snapshot.digest


def test_a_phase_cuts_the_schedule_and_the_rest_of_it_stays_as_it_was(minimal: dict[str, Any]) -> None:
    plain = snapshot_of(minimal).plan
    phases = (
        "[{name: a, share: 25%}, {name: b, share: 50%, learningRate: {from: 5e-4, to: 1e-5}}, {name: c, share: 25%}]"
    )
    cut = snapshot_of(minimal, phases=phases).plan
    assert plain is not None
    assert cut is not None
    step = cut.tokens_per_step
    for number in range(1, cut.steps + 1):
        own = 5e-4 + (1e-5 - 5e-4) * (number - 16) / 32
        expected = own if 16 < number <= 48 else learning_rate(plain.segments, number * step)
        assert learning_rate(cut.segments, number * step) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(cut.segments, 48 * step) == 1e-5, "the last update of a phase has its last rate"
    edges = [(each.begins, each.ends) for each in cut.segments]
    assert edges[0][0] == 0
    assert [start for start, _ in edges[1:]] == [end for _, end in edges[:-1]]
    assert edges[-1][1] == cut.tokens


def test_a_trunk_that_its_last_phase_anneals_is_none(minimal: dict[str, Any]) -> None:
    schedule = "{kind: Infinite, peakLearningRate: 1e-3, constantLearningRate: 5e-4, cooldown: {length: 20%}}"
    trunk = {"schedule": schedule, "phases": "[{name: a, share: 90%}, {name: b, share: 10%}]"}
    annealed = trunk["phases"].replace("10%}", "10%, learningRate: {from: 5e-4, to: 0}}")
    plans = [snapshot_of(minimal, **{**trunk, "phases": phases}).plan for phases in (trunk["phases"], annealed)]
    assert [plan.trunk for plan in plans if plan] == [True, False]


shares = st.lists(st.integers(1, 400), min_size=1, max_size=8).map(
    lambda parts: [Decimal(part) * 100 / sum(parts) for part in parts]
)


@given(shares, st.integers(1, 10**12))
def test_borders_are_the_nearest_steps_and_leave_no_gap(parts: list[Decimal], steps: int) -> None:
    rounded = [part.quantize(Decimal("0.001")) for part in parts]
    rounded[-1] = 100 - sum(rounded[:-1], Decimal(0))
    edges = borders([f"{part}%" for part in rounded], steps)
    assert (edges[0][0], edges[-1][1]) == (0, steps)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
    passed = Decimal(0)
    for part, (_, end) in zip(rounded, edges, strict=True):
        passed += part
        assert abs(Decimal(end) - passed * steps / 100) <= Decimal("0.5")


def test_a_budget_in_epochs_counts_the_replay_of_every_phase(minimal: dict[str, Any]) -> None:
    phases = "[{name: a, share: 75%}, {name: b, share: 25%, replayRatio: 0.65}]"
    snapshot = snapshot_of(changed(minimal, MIXED), budget="{epochs: 2}", phases=phases)
    assert mean_ratio(snapshot.replay.ratio, snapshot.phases) * 100 == 35
    # 2 epochs of 1,000 rows of 64 tokens, of which 65 % are new.
    assert epochs_to_tokens(snapshot, 1000) == -(-2 * 1000 * 64 * 100 // 65)
    with pytest.raises(ManifestError, match=r"spec\.phases\[1\]\.share: found 25% of 1 steps"):
        make_plan(snapshot, 100)


ASCENDING = {"spec.corpus.sources": "[{name: a, uri: a.jsonl, license: MIT}]"}


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"spec.phases": "[{name: a, share: 100%, orderBy: s}]"}, "orderBy", "orderBy without order Ascending"),
        ({"spec.corpus.sources[0].uri": "a.txt"}, "order", "Ascending, but source a has the format Text"),
        ({"spec.corpus.sources[0].format": "Tokens"}, "order", "Ascending, but source a has the format Tokens"),
        (
            {"spec.gates": "{maxForgetting: 1, onForgetting: RaiseReplay}", **MIXED, **ASCENDING},
            "order",
            "Ascending with gates.onForgetting RaiseReplay",
        ),
    ],
)
def test_what_cannot_be_ordered(
    check: Callable[..., Validation], changes: dict[str, str], field: str, found: str
) -> None:
    phases = {"spec.phases": "[{name: a, share: 100%, order: Ascending}]"}
    (problem,) = check({**ASCENDING, **phases, **changes}).problems
    assert (problem.field, problem.found) == (f"spec.phases[0].{field}", found)


@pytest.mark.parametrize(
    ("schedule", "phases", "words"),
    [
        ("{kind: Constant, peakLearningRate: 3e-3}", "[{name: a, share: 100%, order: Ascending}]", ""),
        ("{peakLearningRate: 3e-3}", "[{name: a, share: 100%}]", ""),
        (
            "{peakLearningRate: 3e-3}",
            "[{name: a, share: 100%, order: Ascending}]",
            "falls from 0.003 to 0.0003 (10 times) over this phase",
        ),
        ("{peakLearningRate: 3e-3, finalLearningRate: 1e-3}", "[{name: a, share: 100%, order: Ascending}]", ""),
        # The first half of a cosine falls to a little more than a half.
        ("{peakLearningRate: 3e-3}", "[{name: a, share: 50%, order: Ascending}, {name: b, share: 50%}]", ""),
        (
            "{kind: Constant, peakLearningRate: 3e-3}",
            "[{name: a, share: 90%}, {name: b, share: 10%, order: Ascending, learningRate: {from: 3e-3, to: 0}}]",
            "spec.phases[1].order: Ascending, but the learning rate falls from 0.003 to 0 (to nothing)",
        ),
    ],
)
def test_an_ascending_order_under_a_steep_decay_is_warned_about(
    check: Callable[..., Validation], schedule: str, phases: str, words: str
) -> None:
    found = check({**ASCENDING, "spec.schedule": schedule, "spec.phases": phases})
    assert found.valid
    assert [words in warning for warning in found.warnings] == ([True] if words else [])


def test_nothing_moves_the_mixture_under_an_ascending_order(check):
    phases = "[{name: all, share: 100%, order: Ascending}]"
    adaptive = "{forgettingBudget: 0.02, minimum: 5%, maximum: 50%}"
    source = "{name: general, uri: g.jsonl, license: MIT}"
    replay = f"{{ratio: 0.25, sources: [{source}], adaptive: {adaptive}}}"
    corpus = "{sources: [{name: a, uri: a.jsonl, license: MIT}]}"
    (problem,) = check({"spec.corpus": corpus, "spec.phases": phases, "spec.replay": replay}).problems
    assert (problem.field, problem.found) == ("spec.phases[0].order", "Ascending with replay.adaptive")

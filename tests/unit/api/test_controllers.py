"""What moves the mixture, as written in a manifest: refusals by name, and what the snapshot keeps."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot

ADAPTIVE = {
    "spec.replay": "{ratio: 0.25, sources: [{name: general, uri: general.jsonl, license: MIT}], "
    "adaptive: {forgettingBudget: 0.02, minimum: 5%, maximum: 50%}}"
}
WATCHED = {"spec.evaluation": "{sets: [{name: old, role: Retained, uri: old.jsonl}]}"}

REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "bounds crossed": (
        {**ADAPTIVE, "spec.replay.adaptive.minimum": "60%"},
        ("spec.replay.adaptive.minimum", "60%", "minimum <= maximum (50%)", "use at most 50%, or raise maximum"),
    ),
    "everything replayed": (
        {**ADAPTIVE, "spec.replay.adaptive.maximum": "100%"},
        ("spec.replay.adaptive.maximum", "100%", "below 100%: the corpus needs rows too", "lower maximum"),
    ),
    "ratio below its bounds": (
        {**ADAPTIVE, "spec.replay.ratio": "0.04"},
        (
            "spec.replay.ratio",
            "0.04",
            "from adaptive.minimum 5% to adaptive.maximum 50%, since it starts there",
            "start within the bounds, or widen them",
        ),
    ),
    "ratio above its bounds": (
        {**ADAPTIVE, "spec.replay.ratio": "0.51"},
        (
            "spec.replay.ratio",
            "0.51",
            "from adaptive.minimum 5% to adaptive.maximum 50%, since it starts there",
            "start within the bounds, or widen them",
        ),
    ),
    "no budget": (
        {**ADAPTIVE, "spec.replay.adaptive.forgettingBudget": None},
        (
            "spec.replay.adaptive.forgettingBudget",
            "nothing",
            "0 < forgettingBudget",
            "add forgettingBudget: it is required",
        ),
    ),
    "a budget of nothing": (
        {**ADAPTIVE, "spec.replay.adaptive.forgettingBudget": "0"},
        (
            "spec.replay.adaptive.forgettingBudget",
            "0",
            "0 < forgettingBudget",
            "change forgettingBudget to a number in this range",
        ),
    ),
    "a bare number as a share": (
        {**ADAPTIVE, "spec.replay.adaptive.minimum": "0.05"},
        ("spec.replay.adaptive.minimum", "0.05", 'a percentage, such as "5%"', 'write "5%"'),
    ),
    "nothing to replay": (
        {
            **WATCHED,
            "spec.replay": "{ratio: 0, adaptive: {forgettingBudget: 0.02, minimum: 0%, maximum: 50%}}",
        },
        (
            "spec.replay",
            "adaptive without sources",
            "exactly one of sources | fromRun, to replay from",
            "add sources to replay, or remove adaptive",
        ),
    ),
    "nothing to watch": (
        {**ADAPTIVE, "spec.evaluation": "{sets: [{name: fresh, role: New, uri: fresh.jsonl}]}"},
        (
            "spec.evaluation.sets",
            "nothing with the role Retained",
            "at least one Retained set, whose forgetting replay.adaptive watches",
            "add a set with role: Retained",
        ),
    ),
    "rows of a run and nothing to watch": (
        {
            "spec.replay": "{ratio: 0.1, fromRun: {path: x}, "
            "adaptive: {forgettingBudget: 0.02, minimum: 5%, maximum: 50%}}"
        },
        (
            "spec.evaluation.sets",
            "nothing with the role Retained",
            "at least one Retained set, whose forgetting replay.adaptive watches",
            "add a set with role: Retained",
        ),
    ),
    "two movers of one ratio": (
        {**ADAPTIVE, "spec.gates": "{maxForgetting: 0.02, onForgetting: RaiseReplay}"},
        (
            "spec.gates.onForgetting",
            "RaiseReplay with replay.adaptive",
            "Warn | Stop: replay.adaptive moves the ratio already",
            "use Warn or Stop, or remove replay.adaptive",
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_field_to_edit(check, name):
    changes, (field, found, expected, fix) = REFUSALS[name]
    (problem,) = check(changes).problems
    assert (problem.field, problem.found, problem.expected, problem.fix) == (field, found, expected, fix)


@pytest.mark.parametrize("field", ["forgettingBudget", "minimum", "maximum"])
def test_all_three_fields_of_adaptive_are_required(check, field):
    (problem,) = check({**ADAPTIVE, f"spec.replay.adaptive.{field}": None}).problems
    assert (problem.field, problem.found) == (f"spec.replay.adaptive.{field}", "nothing")


def test_the_ratio_may_start_at_a_bound_and_bounds_may_meet(check):
    assert check({**ADAPTIVE, "spec.replay.ratio": "0.05"}).valid
    assert check({**ADAPTIVE, "spec.replay.ratio": "0.5"}).valid
    together = {"spec.replay.adaptive.minimum": "25%", "spec.replay.adaptive.maximum": "25.0%"}
    assert check({**ADAPTIVE, **together}).valid


def test_the_snapshot_keeps_the_bounds_and_they_are_part_of_the_experiment(check):
    run = check(ADAPTIVE).run
    snapshot = resolve(run, uid="u")
    assert snapshot.to_json()["replay"]["adaptive"] == {"forgettingBudget": 0.02, "minimum": "5%", "maximum": "50%"}
    assert Snapshot.model_validate(snapshot.to_json()) == snapshot
    other = resolve(check({**ADAPTIVE, "spec.replay.adaptive.maximum": "40%"}).run, uid="u")
    assert other.digest != snapshot.digest
    plain = resolve(check({"spec.replay": ADAPTIVE["spec.replay"].split(", adaptive")[0] + "}"}).run, uid="u")
    assert "adaptive" not in plain.to_json()["replay"]

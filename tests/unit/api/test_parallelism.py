"""`training.parallelism`: what it takes, what it is no part of, and what is refused beside it."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_api.resolve import resolve

FIELD = "spec.training.parallelism"
META = "{ratio: 0.25, method: MetaExperienceReplay, sources: [{name: o, uri: o.txt, license: MIT}]}"
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "adapters": ({"spec.training.adaptation": "LoRA"}, "adaptation LoRA"),
    "Reptile steps": ({"spec.replay": META}, "replay.method MetaExperienceReplay"),
    "benchmarks": ({"spec.evaluation.benchmarks": "[{name: quiz, tasks: [arc_easy]}]"}, "evaluation.benchmarks"),
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_what_needs_whole_weights_is_refused_beside_shards_alone(check, name: str) -> None:
    changes, words = REFUSALS[name]
    (problem,) = [found for found in check({**changes, FIELD: "Sharded"}).problems if found.field == FIELD]
    assert problem.found == f"Sharded with {words}"
    for choice in ("Auto", "Replicated"):
        assert not [found for found in check({**changes, FIELD: choice}).problems if found.field == FIELD]


def test_another_word_is_refused(check) -> None:
    (problem,) = check({FIELD: "ZeRO"}).problems
    assert (problem.field, problem.expected) == (FIELD, "Auto | Replicated | Sharded")


def test_it_is_no_part_of_the_experiment(check) -> None:
    plain, sharded = (resolve(check(changes).run, uid="u") for changes in ({}, {FIELD: "Sharded"}))
    assert (plain.training.parallelism, sharded.training.parallelism) == ("Auto", "Sharded")
    assert plain.digest == sharded.digest
    assert "parallelism" not in plain.to_json()["training"], "snapshots from before there was a choice stay as they are"
    assert sharded.to_json()["training"]["parallelism"] == "Sharded"

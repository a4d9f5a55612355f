"""`evaluation.benchmarks` and `gates.maxNegativeFlips`: what a manifest may say, and what becomes of it."""

from __future__ import annotations

import json

import pytest

from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.experiment import changes

BENCHMARKS = "spec.evaluation.benchmarks"
MEDQA = "[{name: medqa, tasks: [medqa_4options], fewShot: 3}]"
TWO_FORMS = "forms: [{name: plain}, {name: quiz, docToText: 'Q: {{question}}', fewShot: 0}]"


def test_the_line_of_the_contract_comes_to_a_snapshot(check):
    found = check({BENCHMARKS: MEDQA, "spec.gates": "{maxNegativeFlips: 0.03}"})
    assert found.problems == ()
    snapshot = resolve(found.run, uid="u")
    (benchmark,) = snapshot.evaluation.benchmarks
    assert benchmark.to_json() == {
        "name": "medqa", "tasks": ["medqa_4options"], "fewShot": 3, "forms": [], "formSelection": "20%"
    }  # fmt: skip
    assert snapshot.gates.max_negative_flips == 0.03
    again = Snapshot.model_validate(json.loads(json.dumps(snapshot.to_json())))
    assert (again, again.digest) == (snapshot, snapshot.digest)


def test_a_snapshot_without_benchmarks_is_as_it_was_before_there_were_any(check):
    snapshot = resolve(check({"spec.gates": "{minGain: 0.1}"}).run, uid="u")
    assert "benchmarks" not in snapshot.to_json()["evaluation"]
    assert "maxNegativeFlips" not in snapshot.to_json()["gates"]


def test_another_benchmark_is_another_experiment_and_is_named(check):
    one = check({BENCHMARKS: MEDQA})
    two = check({BENCHMARKS: MEDQA.replace("3", "5")})
    old, new = resolve(one.run, uid="u"), resolve(two.run, uid="u")
    assert old.digest != new.digest
    documents = [{"spec": {"evaluation": {"benchmarks": [{"fewShot": shots}]}}} for shots in (3, 5)]
    assert [(change.field, change.old, change.new) for change in changes(old, new, *documents)] == [
        (f"{BENCHMARKS}[0].fewShot", 3, 5)
    ]


@pytest.mark.parametrize(
    ("benchmarks", "field", "words"),
    [
        ("[{name: a, tasks: [x]}, {name: a, tasks: [y]}]", "[1].name", "a, which"),
        ("[{name: a, tasks: []}]", "[0].tasks", ""),
        ("[{name: a}]", "[0].tasks", "nothing"),
        ("[{name: a, tasks: [x, y, x]}]", "[0].tasks[2]", "x, which"),
        ("[{name: a, tasks: [x], fewShot: -1}]", "[0].fewShot", "-1"),
        ("[{name: a, tasks: [s3://bucket/x.yaml]}]", "[0].tasks[0]", "s3://"),
        ("[{name: a, tasks: ['claim://c/x.yaml']}]", "[0].tasks[0]", "claim://"),
        ("[{name: a, tasks: [x], formSelection: 30%}]", "[0].formSelection", "30% with no forms"),
        (f"[{{name: a, tasks: [x], formSelection: 100%, {TWO_FORMS}}}]", "[0].formSelection", "100%"),
        ("[{name: a, tasks: [x], forms: [{name: f}, {name: f, fewShot: 1}]}]", "[0].forms[1].name", "f, which"),
        ("[{name: a, tasks: [x], forms: [{name: f}, {name: g}]}]", "[0].forms[1]", "g, which asks as f does"),
        ("[{name: a, tasks: [x], forms: [{name: f, docToText: ''}]}]", "[0].forms[0].docToText", ""),
    ],
)
def test_what_is_wrong_is_named(check, benchmarks, field, words):
    problems = check({BENCHMARKS: benchmarks}).problems
    assert [problem.field for problem in problems] == [BENCHMARKS + field]
    assert words in problems[0].found


def test_a_cluster_reads_no_file_of_this_machine(check):
    def fields(task: str) -> list[str]:
        changes = {BENCHMARKS: f"[{{name: a, tasks: ['{task}']}}]"}
        return [p.field for p in check(changes, local=False).problems if "benchmarks" in p.field]

    assert fields("tasks/own.yaml") == [f"{BENCHMARKS}[0].tasks[0]"]
    assert fields("claim:///x.yaml") == [f"{BENCHMARKS}[0].tasks[0]"]
    assert fields("claim://data/tasks/own.yaml") == fields("arc_easy") == []


def test_a_gate_on_flips_needs_items_that_can_flip(check):
    (problem,) = check({"spec.gates": "{maxNegativeFlips: 0.03}"}).problems
    assert (problem.field, problem.found) == ("spec.gates.maxNegativeFlips", "0.03 without benchmarks")
    (problem,) = check({BENCHMARKS: MEDQA, "spec.gates": "{maxNegativeFlips: 1.5}"}).problems
    assert problem.field == "spec.gates.maxNegativeFlips"


def test_forms_take_their_own_number_of_examples(check):
    run = check({BENCHMARKS: f"[{{name: a, tasks: [x], fewShot: 3, {TWO_FORMS}}}]"}).run
    plain, quiz = resolve(run, uid="u").evaluation.benchmarks[0].forms
    assert (plain.few_shot, quiz.few_shot, quiz.doc_to_text) == (None, 0, "Q: {{question}}")

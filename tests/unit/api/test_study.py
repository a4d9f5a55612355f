"""A MixtureStudy: its refusals, all at once and at the field to edit, and the runs that follow from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewarm_api.crd_study import custom_resource_definition, to_yaml
from rewarm_api.study_rules import no_study
from rewarm_api.study_runs import child_runs
from rewarm_api.validate import validate

ROOT = Path(__file__).parents[3]
TEMPLATE = "spec.template.spec"

REFUSALS: dict[str, tuple[dict[str, str | None], str, str, str]] = {
    "one ratio only": (
        {"spec.grid.replayRatios": "[0.25]"},
        "spec.grid.replayRatios",
        "1 items",
        "a list of 3 to 32 items",
    ),
    "the same ratio twice": (
        {"spec.grid.replayRatios": "[0.25, 0, 0.5, 0.25]"},
        "spec.grid.replayRatios[3]",
        "0.25",
        "each value once",
    ),
    "a ratio of one": ({"spec.grid.replayRatios": "[0, 0.5, 1]"}, "spec.grid.replayRatios[2]", "1", ""),
    "the same budget in two spellings": (
        {"spec.grid.budgets": "[20K, 20000]"},
        "spec.grid.budgets[1]",
        "20000",
        "each value once",
    ),
    "a held-out ratio of the grid": (
        {"spec.holdOut.replayRatios": "[0.25]"},
        "spec.holdOut.replayRatios[0]",
        "0.25",
        "a ratio that the grid does not",
    ),
    "a held-out ratio beyond the grid": (
        {"spec.holdOut.replayRatios": "[0.75]"},
        "spec.holdOut.replayRatios[0]",
        "0.75",
        "a ratio between those of",
    ),
    "a ratio in the template": (
        {f"{TEMPLATE}.replay.ratio": "0.1"},
        f"{TEMPLATE}.replay.ratio",
        "0.1",
        "no ratio: spec.grid.replayRatios sets it",
    ),
    "gates": ({f"{TEMPLATE}.gates": "{minGain: 0.1}"}, f"{TEMPLATE}.gates", "a mapping with minGain", "no gates"),
    "a budget twice": (
        {f"{TEMPLATE}.budget": "{tokens: 1M}"},
        f"{TEMPLATE}.budget",
        "budget, beside",
        "exactly one of",
    ),
    "no budget": ({"spec.grid.budgets": None}, f"{TEMPLATE}.budget", "nothing", "a mapping with the fields tokens"),
    "a budget in epochs": (
        {"spec.grid.budgets": None, f"{TEMPLATE}.budget": "{epochs: 1}"},
        f"{TEMPLATE}.budget.epochs",
        "1",
        "a budget in tokens",
    ),
    "no base model": ({f"{TEMPLATE}.baseModel": None}, f"{TEMPLATE}.baseModel", "nothing", "a mapping with the fields"),
    "a base model twice": (
        {"spec.grid.models": "[{name: s, baseModel: {file: {path: s}}}]"},
        f"{TEMPLATE}.baseModel",
        "baseModel, beside",
        "",
    ),
    "no replay": ({f"{TEMPLATE}.replay": None}, f"{TEMPLATE}.replay", "ratio 0.5 without sources", "exactly one of"),
    "no retained set": (
        {f"{TEMPLATE}.evaluation": "{sets: [{name: code}]}"},
        f"{TEMPLATE}.evaluation.sets",
        "no set of role Retained",
        "",
    ),
    "a mistake of the run": (
        {f"{TEMPLATE}.training.globalBatchTokens": "1000"},
        f"{TEMPLATE}.training.globalBatchTokens",
        "1000",
        "",
    ),
    "a mistake of a model": (
        {
            f"{TEMPLATE}.baseModel": None,
            "spec.grid.models": "[{name: s, baseModel: {file: {path: s}, s3: {uri: s3://b/s}}}]",
        },
        "spec.grid.models[0].baseModel",
        "s3 and file",
        "exactly one of",
    ),
    "an unknown field": ({"spec.grid.ratios": "[0, 0.5]"}, "spec.grid.ratios", "the unknown field ratios", ""),
    "a template that is none": ({TEMPLATE: "5"}, TEMPLATE, "5", "a mapping"),
    "no template": ({"spec.template": None}, "spec.template", "nothing", "a mapping with the fields spec"),
    "a tolerance as a number": ({"spec.tolerance": "0.03"}, "spec.tolerance", "0.03", "a percentage"),
}


def test_the_study_is_valid_without_warnings(check_study):
    found = check_study({})
    assert (found.problems, found.warnings, found.unused) == ((), (), ())


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(check_study, case):
    changes, field, found, expected = REFUSALS[case]
    problems = check_study(changes).problems
    assert [problem.field for problem in problems] == [field], problems
    assert problems[0].found.startswith(found)
    assert problems[0].expected.startswith(expected)
    assert problems[0].fix


def test_all_problems_come_at_once(check_study):
    problems = check_study({
        "spec.grid.replayRatios": "[0.25]",
        "spec.parallelism": "0",
        f"{TEMPLATE}.gates": "{}",
        f"{TEMPLATE}.schedule.warmup": "200%",
    }).problems  # fmt: skip
    assert {problem.field for problem in problems} == {
        "spec.grid.replayRatios", "spec.parallelism", f"{TEMPLATE}.gates", f"{TEMPLATE}.schedule.warmup",
    }  # fmt: skip


def test_a_cluster_refuses_this_machines_files(check_study):
    fields = {problem.field for problem in check_study({}, local=False).problems}
    assert f"{TEMPLATE}.baseModel.file" in fields
    assert f"{TEMPLATE}.corpus.sources[0].uri" in fields


def test_fields_of_a_cluster_are_named_as_unused(check_study):
    assert check_study({f"{TEMPLATE}.compute": "{nodes: 2}"}).unused == (f"{TEMPLATE}.compute",)


def test_warnings_name_the_template(check_study):
    (warning,) = check_study({f"{TEMPLATE}.corpus": "{sources: [{name: code, uri: code.jsonl}]}"}).warnings
    assert warning.startswith(f"{TEMPLATE}.corpus.sources[0].license")


def test_the_runs_are_the_grid_and_each_is_a_valid_manifest(check_study):
    runs = child_runs(check_study({"spec.parallelism": "2"}).study)
    assert [(run.tokens, run.ratio, run.held_out) for run in runs] == [
        (tokens, ratio, kept)
        for tokens in (10_000, 20_000)
        for ratio, kept in ((0, False), (0.25, False), (0.5, False), (0.1, True))
    ]
    assert len({run.name for run in runs}) == len({run.label for run in runs}) == 8
    for run in runs:
        validation = validate(run.document, local=True)
        assert validation.valid, validation.problems
        assert validation.run.spec.replay.ratio == run.ratio
        assert validation.run.spec.budget.tokens == run.tokens
        assert validation.run.spec.tracking.experiment == "mix"


def test_a_run_keeps_its_name_when_the_grid_grows(check_study):
    before = {run.label: run.document for run in child_runs(check_study({}).study)}
    after = {
        run.label: run.document
        for run in child_runs(check_study({"spec.grid.replayRatios": "[0.5, 0, 0.25, 0.75]"}).study)
    }
    assert len(after) == 10
    assert {label: after[label] for label in before} == before
    assert "r0.25-t10000" in before
    assert before["r0.25-t10000"]["metadata"]["name"] == "mix-r0-25-t10000"


def test_long_names_are_shortened_and_stay_different(check_study):
    models = "[{name: a-model-with-a-long-name, baseModel: {file: {path: a}}}, {name: b, baseModel: {file: {path: b}}}]"
    changes = {
        "metadata.name": "a-study-of-many-mixtures-with-a-long-na",
        f"{TEMPLATE}.baseModel": None,
        "spec.grid.models": models,
    }
    runs = child_runs(check_study(changes).study)
    assert len({run.name for run in runs}) == 16
    assert all(validate(run.document, local=True).valid for run in runs)
    assert {run.document["spec"]["baseModel"]["file"]["path"] for run in runs} == {"a", "b"}


def test_runs_share_no_folder_of_checkpoints(check_study):
    runs = child_runs(check_study({f"{TEMPLATE}.checkpoints": "{uri: s3://runs/mix/}"}).study)
    assert len({run.document["spec"]["checkpoints"]["uri"] for run in runs}) == 8


def test_a_study_where_a_run_is_expected_is_named():
    assert "rewarm study" in no_study({"kind": "MixtureStudy"}).fix
    assert no_study({"kind": "ContinualRun"}) is None
    assert no_study(None) is None


def test_the_committed_crd_is_fresh():
    command = [sys.executable, "-m", "rewarm_api.crd_study"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "api")})
    assert made.stdout == to_yaml()
    assert (ROOT / "crds/mixturestudies.yaml").read_text() == made.stdout, "stale: make crds"


def test_the_crd_takes_no_ratio_in_the_template_and_knows_its_other_fields():
    text = yaml.safe_dump(custom_resource_definition())
    assert len(text) < 256 * 1024
    spec = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    template = spec["properties"]["template"]["properties"]["spec"]
    assert "ratio" not in template["properties"]["replay"]["properties"]
    assert template["required"] == ["corpus", "schedule", "training"]
    assert "x-kubernetes-validations" not in yaml.safe_dump(template)
    assert spec["properties"]["grid"]["properties"]["replayRatios"]["minItems"] == 3

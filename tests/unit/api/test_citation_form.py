"""A cited study in the form that an API server can hold, and in the one that is read everywhere."""

from __future__ import annotations

import pytest

from rewarm_api.citation_form import for_a_server, written_out
from rewarm_api.corpus import CitedRatio
from rewarm_api.crd import custom_resource_definition
from rewarm_api.defaults import Defaults
from rewarm_api.manifest import set_path
from rewarm_api.resolve import resolve
from rewarm_api.validate import validate

MANIFEST = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "ContinualRun",
    "metadata": {"name": "citing"},
    "spec": {
        "baseModel": {"s3": {"uri": "s3://models/base/"}},
        "corpus": {"sources": [{"name": "new", "uri": "s3://c/new.jsonl", "license": "MIT"}]},
        "replay": {
            "sources": [{"name": "old", "uri": "s3://c/old.jsonl", "license": "MIT"}],
            "fromStudy": {"name": "mix", "tolerance": "3%"},
        },
        "schedule": {"peakLearningRate": 3e-4},
        "budget": {"tokens": "1M"},
        "training": {"sequenceLength": 128, "globalBatchTokens": 1024},
        "checkpoints": {"uri": "s3://runs/team/citing/"},
    },
}


def changed(**changes):
    import copy

    document = copy.deepcopy(MANIFEST)
    for path, text in changes.items():
        set_path(document, path.replace("__", "."), text)
    return document


def test_one_form_is_the_other():
    local, problems = written_out(MANIFEST)
    assert problems == []
    assert local["spec"]["replay"]["ratio"] == {"fromStudy": "mix", "tolerance": "3%"}
    assert "fromStudy" not in local["spec"]["replay"]
    assert for_a_server(local) == MANIFEST
    assert for_a_server(MANIFEST) == MANIFEST
    assert written_out(local) == (local, [])


@pytest.mark.parametrize("document", [{}, {"spec": 5}, {"spec": {"replay": 5}}, {"spec": {"replay": {"ratio": 0.1}}}])
def test_anything_else_stays_as_it_is(document):
    assert written_out(document) == (document, [])
    assert for_a_server(document) == document


@pytest.mark.parametrize("local", [True, False, None])
def test_it_is_valid_everywhere_and_is_asked_for_on_a_cluster(local):
    found = validate(MANIFEST, local=local)
    assert found.problems == ()
    assert isinstance(found.run.spec.replay.ratio, CitedRatio)


def test_a_snapshot_of_a_cluster_says_what_preparation_has_to_ask():
    run = validate(MANIFEST, local=False).run
    snapshot = resolve(run, uid="u", defaults=Defaults())
    assert snapshot.replay.asked == {"fromStudy": "mix", "tolerance": "3%", "extrapolate": False}
    assert (snapshot.replay.ratio, snapshot.replay.cited) == (0.0, None)
    with pytest.raises(ValueError, match="was not asked"):
        resolve(run, uid="u")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"spec__replay__ratio": "0.1"}, "spec.replay.fromStudy"),
        ({"spec__replay__fromStudy": "{name: ../mix}"}, "spec.replay.ratio.fromStudy"),
        ({"spec__replay__fromStudy": "{name: mix, tolerance: 3}"}, "spec.replay.ratio.tolerance"),
        ({"spec__replay__fromStudy": "{tolerance: 3%}"}, "spec.replay.fromStudy"),
        ({"spec__budget": "{epochs: 1}"}, "spec.budget.epochs"),
    ],
)
def test_refusals_on_a_cluster(changes, field):
    fields = [problem.field for problem in validate(changed(**changes), local=False).problems]
    assert field in fields


def test_the_schema_of_a_server_has_both_and_needs_one():
    root = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    replay = root["properties"]["spec"]["properties"]["replay"]
    assert replay["properties"]["ratio"]["type"] == "number"
    assert replay["properties"]["fromStudy"]["required"] == ["name"]
    assert "required" not in replay
    assert "exactly one of ratio | fromStudy" in str(replay["x-kubernetes-validations"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"spec__replay__ratio": "0.25"},
            "spec.replay.fromStudy: found fromStudy beside ratio, expected exactly one of ratio | fromStudy; "
            "remove one of them",
        ),
        (
            {"spec__replay__fromStudy": "mix"},
            "spec.replay.fromStudy: found mix, expected {name: NAME}, and with it tolerance, model, extrapolate; "
            "name the study, for example {name: my-study, tolerance: 3%}",
        ),
    ],
)
def test_one_mistake_in_it_is_one_problem_that_names_it(changes, told):
    (problem,) = validate(changed(**changes), local=False).problems
    assert str(problem) == told

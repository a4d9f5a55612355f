"""Which fields of a manifest make it another experiment: named as they stand in the manifest."""

from __future__ import annotations

import copy
from typing import Any

from rewarm_api.manifest import set_path
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.experiment import changes

DOCUMENT: dict[str, Any] = {
    "apiVersion": "rewarm.dev/v1alpha1",
    "kind": "ContinualRun",
    "metadata": {"name": "demo"},
    "spec": {
        "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
        "corpus": {"sources": [{"name": "web", "uri": "web.jsonl"}, {"name": "code", "uri": "code.jsonl"}]},
        "replay": {"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl"}]},
        "schedule": {
            "kind": "Infinite",
            "peakLearningRate": 1e-3,
            "constantLearningRate": 5e-4,
            "cooldown": {"length": "50%"},
        },
        "budget": {"tokens": 40960},
        "training": {"sequenceLength": 16, "globalBatchTokens": 256},
    },
}


def snapshot(document: dict[str, Any]) -> Snapshot:
    validation = validate(document, local=True)
    assert validation.run is not None, validation.problems
    return resolve(validation.run, uid="u")


def changed(*edits: tuple[str, str], before: dict[str, Any] = DOCUMENT) -> dict[str, tuple[Any, Any]]:
    """Fields named, with old and new value, when `edits` are made to the manifest."""
    now = copy.deepcopy(before)
    for path, value in edits:
        set_path(now, path, value)
    return {each.field: (each.old, each.new) for each in changes(snapshot(before), snapshot(now), before, now)}


def test_the_same_manifest_is_the_same_experiment() -> None:
    assert changed() == {}


def test_fields_are_named_as_they_stand_in_the_manifest() -> None:
    assert changed(
        ("metadata.name", "other"),
        ("spec.baseModel.scratch.config.hidden_size", "64"),
        ("spec.corpus.sources[0].uri", "other.jsonl"),
        ("spec.replay.sources[0].badLines", "3"),
        ("spec.schedule.cooldown.length", "40%"),
        ("spec.budget.tokens", "20K"),
        ("spec.training.optimizer.beta2", "0.9"),
        ("spec.cache.uri", "s3://cache/x/"),
    ) == {
        "metadata.name": ("demo", "other"),
        "spec.baseModel.scratch.config.hidden_size": (None, 64),
        "spec.corpus.sources[0].uri": ("web.jsonl", "other.jsonl"),
        "spec.replay.sources[0].badLines": (0, 3),
        "spec.schedule.cooldown.length": ("50%", "40%"),
        "spec.budget.tokens": (40960, 20000),
        "spec.training.optimizer.beta2": (0.95, 0.9),
        "spec.cache.uri": (None, "s3://cache/x/"),
    }


def test_what_follows_from_another_field_is_not_named() -> None:
    """The final learning rate defaults to a tenth of the peak."""
    assert list(changed(("spec.schedule.peakLearningRate", "2e-3"))) == ["spec.schedule.peakLearningRate"]


def test_a_field_taken_out_of_the_manifest_is_named() -> None:
    before = copy.deepcopy(DOCUMENT)
    before["spec"]["training"]["seed"] = 5
    now = copy.deepcopy(DOCUMENT)
    (change,) = changes(snapshot(before), snapshot(now), before, now)
    assert (change.field, change.old, change.new) == ("spec.training.seed", 5, 0)


def test_another_default_is_named_when_nothing_else_is() -> None:
    stored = snapshot(DOCUMENT)
    older = stored.model_copy(update={"training": stored.training.model_copy(update={"document_masking": False})})
    (change,) = changes(older, stored, DOCUMENT, DOCUMENT)
    assert change.field == "spec.training.documentMasking"


def test_of_a_union_the_parent_is_named() -> None:
    now = copy.deepcopy(DOCUMENT)
    now["spec"]["budget"] = {"epochs": 2}
    now["spec"]["baseModel"] = {"file": {"path": "base"}}
    named = [each.field for each in changes(snapshot(DOCUMENT), snapshot(now), DOCUMENT, now)]
    assert named == ["spec.baseModel", "spec.budget"]


def test_one_source_more_is_named_at_the_list() -> None:
    now = copy.deepcopy(DOCUMENT)
    now["spec"]["corpus"]["sources"].append({"name": "maths", "uri": "maths.jsonl"})
    assert [each.field for each in changes(snapshot(DOCUMENT), snapshot(now), DOCUMENT, now)] == ["spec.corpus.sources"]


def test_how_it_runs_is_no_part_of_the_experiment() -> None:
    now = copy.deepcopy(DOCUMENT)
    now["spec"] |= {"retries": {"maxFailures": 9}, "activeDeadlineSeconds": 5, "suspend": False}
    assert changes(snapshot(DOCUMENT), snapshot(now), DOCUMENT, now) == []

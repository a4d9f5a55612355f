"""From a manifest to attempt 1: validity, snapshot, preparation, and what is written on the way."""

from __future__ import annotations

import contextlib
import json

import pytest
from operator_world import Conflict, World

from rewarm_api.status import CONDITION_TYPES
from rewarm_operator import actions as a


def kinds(decision: a.Decision) -> list[str]:
    return [type(action).__name__ for action in decision.actions]


def test_the_finalizer_comes_before_any_side_effect(world):
    assert world.step().actions == (a.SetFinalizer(),)


def test_one_write_carries_digest_counts_and_every_condition_and_the_version_it_was_resolved_for(world):
    world.step()
    version = world.run["metadata"]["resourceVersion"]
    decision = world.step()
    patch = decision.actions[0]
    assert isinstance(patch, a.PatchStatus)
    assert patch.resource_version == version
    assert patch.changes["counts"] == {"attempts": 1, "failures": 0, "disruptions": 0}
    assert patch.changes["snapshotDigest"].startswith("sha256:")
    assert [each["type"] for each in patch.changes["conditions"]] == list(CONDITION_TYPES)
    assert all(each["observedGeneration"] == 1 and each["lastTransitionTime"] for each in patch.changes["conditions"])
    created = [action.body["kind"] for action in decision.actions if isinstance(action, a.Create)]
    assert created == ["ConfigMap", "Service", "Job"]


def test_at_most_children_and_two_writes_until_attempt_1_exists(world):
    world.settle()
    world.schedule("llama-prepare")
    world.settle()
    world.wait(60)
    world.settle()
    world.succeed("llama-prepare")
    while "llama-a1" not in world.jobs:
        world.step()
    assert [type(write).__name__ for write in world.writes] == [
        "SetFinalizer",
        "PatchStatus",
        *["Create"] * 4,
    ]
    assert world.posted == ["llama", "llama", "llama-prepare", "llama-a1"]


def test_an_edit_between_resolving_and_writing_is_not_frozen_unseen(world):
    world.step()
    decision = world.decide()
    world.edit("training.seed", 5)
    with pytest.raises(Conflict):
        world.execute(decision.actions[0])
    world.settle()
    assert json.loads(world.config_map["data"]["snapshot.json"])["training"]["seed"] == 5


def test_an_invalid_spec_is_told_with_its_field_and_mend_and_can_be_mended():
    world = World(replay__ratio=1.5)
    world.settle()
    assert world.told("SpecValid") == ("False", "InvalidSpec")
    assert "spec.replay.ratio" in world.condition("SpecValid")["message"]
    assert world.event_reasons() == ["SpecInvalid"]
    assert world.told("Stalled") == ("True", "SpecInvalid")
    assert (world.status["summary"], "snapshotDigest" in world.status) == ("Pending", False)
    assert not world.jobs
    assert not world.run["metadata"].get("finalizers")
    assert world.step().actions == ()
    world.edit("replay.ratio", 0.5)
    world.settle()
    assert world.told("SpecValid") == ("True", "Valid")
    assert list(world.jobs) == ["llama-prepare"]


def test_a_place_that_neither_run_nor_chart_names_is_a_problem():
    world = World(checkpoints={})
    world.settle()
    assert "chart's value checkpoints.uri" in world.condition("SpecValid")["message"]


def test_a_run_that_is_suspended_from_the_start_gets_a_status_and_nothing_else():
    world = World(suspend=True)
    world.settle()
    assert [type(write).__name__ for write in world.writes] == ["PatchStatus"]
    assert (world.status["summary"], world.told("Suspended")[0]) == ("Suspended", "True")
    assert "snapshotDigest" not in world.status
    world.edit("suspend", False)
    world.settle()
    assert world.told("Suspended")[0] == "False"
    assert list(world.jobs) == ["llama-prepare"]


def test_a_lost_config_map_is_made_again_only_for_the_same_experiment(training):
    stored = training.config_map
    training.config_map = None
    training.settle()
    assert training.config_map["data"] == stored["data"]
    training.config_map = None
    training.edit("training.seed", 99)  # The API server would refuse it; an operator with other defaults sees the same.
    training.settle()
    assert training.config_map is None
    assert training.told("Degraded") == ("True", "SnapshotLost")
    assert training.status["snapshotDigest"] in training.condition("Degraded")["message"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digest": "sha256:of another experiment"}'])
def test_a_config_map_that_holds_no_snapshot_starts_nothing(world, text):
    world.settle()
    world.config_map["data"] = {"snapshot.json": text}
    world.succeed_prepare()
    world.settle()
    assert world.told("Stalled") == ("True", "SnapshotLost")
    assert "llama-a1" not in world.jobs


def test_somebody_elses_object_of_our_name_is_a_condition_and_passes_when_it_goes(world):
    world.foreign = {"Service/llama"}
    for _ in range(4):
        with contextlib.suppress(Conflict):
            world.step()
    assert world.told("Degraded") == ("True", "NameCollision")
    assert "Service/llama" in world.condition("Degraded")["message"]
    world.foreign = set()
    world.settle()
    assert world.told("Degraded") == ("False", "AsExpected")
    assert list(world.jobs) == ["llama-prepare"]


def test_the_stored_snapshot_stands_whatever_the_operator_would_resolve_now(training):
    before = training.config_map["data"]
    training.settings = type(training.settings)(trainer_image="t:2", default_cache_uri="s3://elsewhere/")
    training.restart()
    writes = len(training.writes)
    training.settle()
    assert training.config_map["data"] == before
    assert len(training.writes) == writes


class TestPreparation:
    def test_pins_are_told(self, world):
        world.settle()
        world.schedule("llama-prepare")
        pins = {"uri": "s3://cache/pins.json", "tokens": 2000896, "steps": 1954, "sources": {"pubmed": {}}}
        world.end_pod("llama-prepare", message=json.dumps({"version": 1, "outcome": "Succeeded", "pins": pins}))
        world.end_job("llama-prepare", "Complete")
        world.settle()
        assert world.told("DataReady") == ("True", "Prepared")
        assert "2000896 tokens in 1954 steps" in world.condition("DataReady")["message"]
        assert "DataPrepared" in world.event_reasons()

    def test_what_is_missing_is_named_and_looked_for_again_for_ever(self, world):
        world.settle()
        for tries in range(12):
            world.schedule("llama-prepare")
            message = json.dumps({"version": 1, "message": "s3://corpora/pubmed/*.parquet matches nothing"})
            world.fail("llama-prepare", 66, message=message)
            world.settle()
            assert world.told("DataReady") == ("False", "MissingInput")
            assert world.told("Stalled") == ("True", "MissingInput")
            assert "s3://corpora/pubmed/*.parquet" in world.condition("DataReady")["message"]
            world.wait(301)
            world.settle()
            spent = json.loads(world.jobs["llama-prepare"]["metadata"]["annotations"]["rewarm.dev/spent"])
            assert spent["tries"] == tries + 1
            assert world.told("DataReady") == ("False", "MissingInput"), "it stays in sight while it is looked for"
        assert world.status["counts"] == {"attempts": 1, "failures": 0, "disruptions": 0}
        assert world.event_reasons().count("MissingInput") == 1
        world.succeed_prepare()
        world.settle()
        assert world.told("DataReady") == ("True", "Prepared")
        assert world.told("Stalled")[0] == "False"
        assert "llama-a1" in world.jobs

    @pytest.mark.parametrize(("code", "cause"), [(64, "InvalidSpec"), (65, "BadData")])
    def test_what_no_retry_can_mend_ends_the_run(self, world, code, cause):
        world.settle()
        world.schedule("llama-prepare")
        world.fail("llama-prepare", code, message="pubmed-3.parquet, row 17: no text")
        world.settle()
        assert world.told("Succeeded") == ("False", cause)
        assert "pubmed-3.parquet" in world.condition("Succeeded")["message"]
        assert world.status["summary"] == "Failed"

    def test_failures_are_counted_once_each_and_end_the_run(self, world):
        world.settle()
        for _ in range(4):
            world.schedule("llama-prepare")
            world.fail("llama-prepare", 137, reason="OOMKilled")
            world.settle()
            world.wait(301)
            world.settle()
        assert world.told("Succeeded") == ("False", "OutOfMemory")
        assert world.status["counts"]["failures"] == 4
        assert "retries.maxFailures is 3" in world.condition("Succeeded")["message"]

    def test_suspending_gives_the_machine_back_and_resuming_prepares_again(self, world):
        world.settle()
        world.schedule("llama-prepare")
        world.edit("suspend", True)
        world.settle()
        assert not world.jobs
        assert world.status["summary"] == "Suspended"
        world.edit("suspend", False)
        world.settle()
        assert list(world.jobs) == ["llama-prepare"]
        assert world.status["counts"]["attempts"] == 1

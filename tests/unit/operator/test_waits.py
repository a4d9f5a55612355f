"""What a run waits for is a condition that names it, and an Event; it passes without touching the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from operator_world import World

from rewarm_operator.reconcile import decide

A1 = "llama-a1"


@pytest.fixture
def starting(world: World) -> World:
    world.start(running=False)
    return world


def hold(world: World, reason: str, message: str) -> None:
    for pod in world.pods_of(world.jobs[A1]):
        pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": reason, "message": message}}


def unschedulable(world: World, message: str) -> None:
    for pod in world.pods_of(world.jobs[A1]):
        pod["status"] = {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
        }


@pytest.mark.parametrize(
    ("reason", "message", "told", "named"),
    [
        ("CreateContainerConfigError", 'secret "s3-credentials" not found', "MissingSecret", "s3-credentials"),
        ("CreateContainerConfigError", 'configmap "extra" not found', "MissingConfigMap", "extra"),
        ("ErrImagePull", "rpc error: code = NotFound desc = ...", "ImagePullFailed", "rewarm-trainer:1"),
        ("ImagePullBackOff", 'Back-off pulling image "rewarm-trainer:1"', "ImagePullFailed", "rewarm-trainer:1"),
        ("CreateContainerError", "context deadline exceeded", "CreateContainerError", "context deadline exceeded"),
    ],
)
def test_a_container_that_cannot_start(starting, reason, message, told, named):
    hold(starting, reason, message)
    starting.settle()
    assert starting.told("Stalled") == ("True", told)
    assert named in starting.condition("Stalled")["message"]
    assert starting.told("Running") == ("False", told)
    assert [event.reason for event in starting.events if named in event.message] == [told]
    assert starting.step().actions == ()


def test_an_image_that_flips_between_two_reasons_writes_once(starting):
    hold(starting, "ErrImagePull", "rpc error 1")
    starting.settle()
    before = len(starting.writes)
    for turn in range(6):
        starting.wait(30)
        hold(starting, ("ImagePullBackOff", "ErrImagePull")[turn % 2], f"text {turn}")
        starting.settle()
    assert len(starting.writes) == before


def test_a_claim_that_is_not_there(starting):
    unschedulable(starting, '0/3 nodes are available: persistentvolumeclaim "texts" not found. preemption: none')
    starting.settle()
    assert starting.told("Stalled") == ("True", "MissingClaim")
    assert '"texts"' in starting.condition("Stalled")["message"]


def test_a_cluster_without_room_is_no_stall_for_five_minutes(starting):
    unschedulable(starting, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    starting.settle()
    assert starting.told("Running") == ("False", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in starting.condition("Running")["message"]
    assert starting.told("Stalled")[0] == "False"
    assert starting.decide().requeue_after <= 300
    starting.wait(300)
    starting.settle()
    assert starting.told("Stalled") == ("True", "Unschedulable")


def test_it_passes_when_what_was_missing_appears(starting):
    hold(starting, "CreateContainerConfigError", 'secret "s3-credentials" not found')
    starting.settle()
    starting.pods.clear()
    starting.schedule(A1)
    starting.settle()
    assert starting.told("Stalled") == ("False", "Progressing")
    assert starting.told("Running")[0] == "True"


def test_a_job_that_gets_no_pods(world):
    world.settle()
    world.wait(60)
    world.settle()
    assert world.told("Stalled") == ("True", "NoPods")
    assert "llama-prepare" in world.condition("Stalled")["message"]


def test_pods_that_do_not_start_for_reasons_that_only_events_tell(starting):
    starting.wait(300)
    starting.settle()
    assert starting.told("Stalled") == ("True", "NotStarting")
    assert "llama-a1-0" in starting.condition("Stalled")["message"]


def test_preparation_waits_in_the_same_words(world):
    world.settle()
    (pod,) = world.schedule("llama-prepare", running=False)
    pod["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3-credentials" not found'}
    }
    world.settle()
    assert world.told("Stalled") == ("True", "MissingSecret")
    assert world.status["summary"] == "Preparing"


def test_a_create_that_is_refused_is_told_before_it_is_tried_again(world):
    world.settle()
    world.succeed_prepare()
    message = 'jobs.batch "llama-a1" is forbidden: exceeded quota: jobs'
    observed = replace(world.observed(), refused={"Job/llama-a1": message})
    patch, *events, create = decide(observed, world.settings).actions
    assert [message in event.message for event in events if event.reason == "CreateRefused"] == [True]
    stalled = next(each for each in patch.changes["conditions"] if each["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "CreateRefused")
    assert message in stalled["message"]
    assert create.body["metadata"]["name"] == "llama-a1"


def test_a_service_that_is_refused_is_told_although_the_attempt_is_counted_already(world):
    world.settle()
    world.succeed_prepare()
    world.service = None
    observed = replace(world.observed(), refused={"Service/llama": "exceeded quota: services"})
    patch = decide(observed, world.settings).actions[0]
    stalled = next(each for each in patch.changes["conditions"] if each["type"] == "Stalled")
    assert "Service/llama is refused: exceeded quota" in stalled["message"]


@pytest.mark.parametrize(
    ("activity", "summary"),
    [("training", "Training"), ("compiling", "Training"), ("baseline", "Evaluating"), ("Evaluating", "Evaluating")],
)
def test_the_summary_follows_what_rank_0_does(world, activity, summary):
    world.start()
    world.report(A1, 1, phase={"activity": activity})
    world.wait(10)
    world.settle()
    assert world.status["summary"] == summary

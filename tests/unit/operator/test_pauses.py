"""Hangs, suspending and resuming, training time that is spent, and Kueue."""

from __future__ import annotations

from datetime import timedelta

import pytest
from operator_world import World, stamp

from rewarm_api.reported import Report, Termination

A1, A2 = "llama-a1", "llama-a2"


def checkpoint(step: int) -> dict:
    return {"uri": f"s3://runs/llama/checkpoints/step-{step:08d}", "step": step, "committedAt": "2026-11-21T12:00:00Z"}


def last_words(**said) -> str:
    return Termination(report=Report.model_validate(said)).to_message()


def again(world: World, name: str) -> None:
    world.settle()
    world.schedule(name)
    world.settle()


class TestHang:
    def test_no_sign_of_life_for_five_minutes(self, training):
        training.report(A1, 1, progress={"step": 3})
        training.wait(299)
        training.settle()
        assert training.causes() == [None]
        assert training.decide().requeue_after <= 1
        training.wait(1)
        training.settle()
        assert training.causes() == ["Hang", None]
        assert training.status["counts"]["failures"] == 1
        assert list(training.live_jobs()) == [A2]

    def test_a_phase_beyond_its_own_deadline(self, training):
        deadline = stamp(training.now + timedelta(seconds=120))
        training.report(A1, 1, phase={"activity": "Compiling", "deadline": deadline})
        training.wait(119)
        training.settle()
        assert training.causes() == [None]
        training.wait(1)
        training.settle()
        assert training.causes() == ["Hang", None]
        assert any("Compiling passed its deadline" in event.message for event in training.events)

    def test_a_process_that_has_just_begun_to_lead_waits_as_long_itself(self, training):
        training.wait(10_000)
        training.restart()
        training.settle()
        training.wait(299)
        training.settle()
        assert training.causes() == [None]
        training.wait(1)
        training.settle()
        assert training.causes() == ["Hang", None]

    def test_pods_that_trust_another_authority_cannot_report(self, training):
        for pod in training.pods.values():
            pod["metadata"]["annotations"]["rewarm.dev/progress-ca-digest"] = "another"
        training.wait(10_000)
        training.settle()
        assert training.causes() == [None]

    def test_without_reporting_there_is_no_hang(self):
        world = World(settings=type(World().settings)(trainer_image="t"))
        world.start()
        world.wait(100_000)
        world.settle()
        assert world.causes() == [None]

    def test_a_hang_after_the_verdict_is_a_completion(self, training):
        training.report(A1, 1, outcome="Succeeded")
        training.wait(301)
        training.settle()
        assert training.causes() == ["Completed"]

    def test_preparation_that_has_spoken_and_falls_silent_hangs(self, world):
        world.settle()
        world.schedule("llama-prepare")
        world.wait(1000)
        world.settle()
        assert world.told("DataReady") == ("False", "Preparing")
        world.report("llama-prepare", 0, phase={"activity": "Preparing"})
        world.wait(299)
        world.settle()
        assert world.decide().requeue_after <= 1
        world.wait(1)
        world.settle()
        assert world.told("DataReady") == ("False", "Preparing")
        assert world.status["counts"]["failures"] == 1
        assert world.event_reasons().count("Hang") == 1
        assert not world.pods_of(world.jobs["llama-prepare"])


class TestSuspend:
    def test_suspending_deletes_the_job_and_keeps_the_state(self, training):
        training.report(A1, 1, checkpoint=checkpoint(40))
        training.wait(10)
        training.settle()
        training.edit("suspend", True)
        training.settle()
        assert training.causes() == ["Suspended"]
        assert not list(training.live_jobs())
        assert training.told("Suspended") == ("True", "Suspended")
        assert training.status["summary"] == "Suspended"
        assert training.status["checkpoint"]["step"] == 40
        assert training.status["counts"] | {"failures": 0, "disruptions": 0} == training.status["counts"]

    def test_what_rank_0_commits_while_it_stops_still_counts(self, training):
        training.edit("suspend", True)
        training.settle()
        pod = next(p for p in training.pods.values() if p["metadata"]["name"].startswith("llama-a1-0"))
        words = last_words(checkpoint=checkpoint(77), attempt={"number": 1, "firstStep": 1, "lastStep": 77})
        pod["status"]["phase"] = "Failed"
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 143, "message": words}}
        training.wait(10)
        training.settle()
        assert training.status["checkpoint"]["step"] == 77
        assert training.status["attempts"][0]["lastStep"] == 77

    def test_resuming_waits_for_the_old_pods_then_takes_the_new_compute(self, training):
        training.edit("suspend", True)
        training.settle()
        training.edit("compute", {"nodes": 1, "gpusPerNode": 0})
        training.edit("suspend", False)
        training.settle()
        assert A2 not in training.jobs, "the old pods are still committing"
        training.pods.clear()
        training.settle()
        assert training.jobs[A2]["spec"]["completions"] == 1
        assert "Resumed" in training.event_reasons()

    def test_old_pods_on_a_lost_node_are_not_waited_for_for_ever(self, training):
        training.edit("suspend", True)
        training.settle()
        training.edit("suspend", False)
        training.wait(361)
        training.settle()
        assert A2 in training.jobs

    def test_an_attempt_that_had_failed_already_was_not_suspended(self, training):
        training.fail(A1, 65)
        training.edit("suspend", True)
        training.settle()
        assert training.told("Succeeded") == ("False", "BadData")

    def test_a_compute_that_became_invalid_starts_nothing_and_can_be_mended(self, training):
        training.edit("suspend", True)
        training.settle()
        training.pods.clear()
        training.edit("compute", {"nodes": 3, "gpusPerNode": 0})
        training.edit("suspend", False)
        training.settle()
        assert training.told("SpecValid")[0] == "False"
        assert training.told("Stalled") == ("True", "SpecInvalid")
        assert A2 not in training.jobs
        training.edit("compute", {"nodes": 4, "gpusPerNode": 0})
        training.settle()
        assert training.jobs[A2]["spec"]["completions"] == 4

    def test_what_a_newer_release_finds_in_the_experiment_stops_no_run(self, training):
        training.edit("suspend", True)
        training.settle()
        training.pods.clear()
        training.run["spec"]["replay"]["ratio"] = 1.5
        training.settings = type(training.settings)(trainer_image="t:2")
        training.edit("suspend", False)
        training.settle()
        assert training.told("SpecValid") == ("True", "Valid")
        assert A2 in training.jobs

    def test_an_invalid_edit_leaves_alone_what_runs(self, training):
        training.edit("compute", {"nodes": 3, "gpusPerNode": 0})
        training.settle()
        assert training.told("SpecValid")[0] == "False"
        assert training.told("Running")[0] == "True"
        assert training.told("Stalled")[0] == "False"
        training.fail(A1, 143)
        training.settle()
        assert training.causes() == ["Preempted"]
        assert training.told("Stalled") == ("True", "SpecInvalid")


class TestDeadline:
    def test_training_time_ends_the_run_and_waiting_does_not_count(self):
        world = World(activeDeadlineSeconds=1000)
        world.start()
        world.report(A1, 1, progress={"step": 1})
        world.wait(200)
        world.settle()
        world.edit("suspend", True)
        world.settle()
        assert world.status["trainingSeconds"] == 200
        world.wait(100_000)
        world.pods.clear()
        world.edit("suspend", False)
        again(world, A2)
        assert world.told("Running")[0] == "True"
        for _ in range(4):
            world.wait(199)
            world.report(A2, 2, progress={"step": 2})
            world.settle()
        assert world.told("Succeeded")[0] == "Unknown"
        world.wait(4)
        world.settle()
        assert world.told("Succeeded") == ("False", "DeadlineExceeded")
        assert not list(world.live_jobs())

    def test_a_run_that_is_judged_already_is_not_out_of_time(self):
        world = World(activeDeadlineSeconds=1000)
        world.start()
        world.wait(990)
        world.report(A1, 1, outcome="Succeeded")
        world.settle()
        world.wait(20)
        world.report(A1, 1, outcome="Succeeded")
        world.settle()
        assert world.causes() == [None]
        world.succeed(A1)
        world.settle()
        assert world.told("Succeeded")[0] == "True"


class TestKueue:
    @pytest.fixture
    def queued(self) -> World:
        world = World(compute__queue="gpu-queue")
        world.kueue_installed = True
        world.settle()
        world.jobs["llama-prepare"]["spec"]["suspend"] = False
        world.succeed_prepare()
        world.settle()
        return world

    def workload(self, world: World, kind: str, status: str, reason: str, message: str) -> None:
        uid = world.jobs[A1]["metadata"]["uid"]
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        world.workloads["w"] = {
            "metadata": {"name": "w", "ownerReferences": [{"kind": "Job", "uid": uid}]},
            "status": {"conditions": [condition]},
        }

    def test_a_queued_run_says_what_it_waits_for(self, queued):
        self.workload(queued, "QuotaReserved", "False", "Pending", "couldn't assign flavors: insufficient gpu")
        queued.settle()
        assert queued.told("Admitted") == ("False", "Pending")
        assert "gpu-queue" in queued.condition("Admitted")["message"]
        assert queued.status["summary"] == "Queued"
        assert queued.told("Stalled")[0] == "False"

    def test_a_queue_that_is_not_there_is_named(self, queued):
        self.workload(queued, "QuotaReserved", "False", "Inadmissible", "LocalQueue gpu-queue doesn't exist")
        queued.settle()
        assert queued.told("Stalled") == ("True", "QueueNotReady")
        assert "gpu-queue" in queued.condition("Stalled")["message"]

    def test_admission_and_being_sent_back_inside_one_attempt(self, queued):
        self.workload(queued, "Admitted", "True", "Admitted", "")
        queued.jobs[A1]["spec"]["suspend"] = False
        again(queued, A1)
        assert queued.told("Admitted") == ("True", "Admitted")
        assert queued.told("Running")[0] == "True"
        self.workload(queued, "QuotaReserved", "False", "Preempted", "preempted to accommodate a higher priority")
        queued.jobs[A1]["spec"]["suspend"] = True
        queued.wait(100)
        queued.settle()
        queued.wait(1000)
        queued.settle()
        assert queued.causes() == [None], "the attempt goes on once Kueue admits it again, and silence is no hang"
        assert queued.told("Running") == ("False", "Queued")
        assert queued.status["trainingSeconds"] == 100
        assert "Preempted" in queued.event_reasons()

    def test_without_kueue_nothing_waits(self):
        world = World(compute__queue="gpu-queue")
        world.start()
        assert world.told("Admitted") == ("False", "KueueNotInstalled")
        assert ["gpu-queue" in event.message for event in world.events if event.reason == "KueueNotInstalled"] == [True]
        assert world.told("Running")[0] == "True"

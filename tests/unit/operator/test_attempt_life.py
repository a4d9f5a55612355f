"""While an attempt runs, and from one attempt to the next."""

from __future__ import annotations

import json

import pytest
from operator_world import World, stamp

from rewarm_api.reported import Report, Termination
from rewarm_operator import attempts
from rewarm_operator.actions import ListPods

A1, A2 = "llama-a1", "llama-a2"


def checkpoint(step: int) -> dict:
    return {"uri": f"s3://runs/llama/checkpoints/step-{step:08d}", "step": step, "committedAt": "2026-11-21T12:00:00Z"}


def last_words(**said) -> str:
    return Termination(report=Report.model_validate(said)).to_message()


def again(world: World, name: str) -> None:
    world.settle()
    world.schedule(name)
    world.settle()


class TestRunning:
    def test_an_attempt_that_trains(self, training):
        assert training.told("Running") == ("True", "Training")
        assert training.status["summary"] == "Training"
        assert training.status["attempts"] == [{"number": 1, "startTime": "2026-11-21T12:00:00Z"}]
        assert training.event_reasons() == ["SnapshotTaken", "DataPrepared", "AttemptStarted"]

    def test_it_runs_only_when_all_nodes_do(self, world):
        world.start(running=False)
        assert world.told("Running") == ("False", "Starting")
        pod = world.pod(A1, 0)
        pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": stamp(world.now)}}
        world.settle()
        assert world.told("Running")[0] == "False"

    def test_a_report_becomes_the_status_rounded(self, training):
        training.report(
            A1,
            1,
            phase={"name": "", "activity": "Training", "deadline": "2026-11-21T13:00:00Z"},
            progress={"step": 12, "tokens": 12288, "targetTokens": 2000896, "tokensPerSecond": 81234.567},
            learningRate=0.000123456789,
            evaluation=[{"set": "pubmed", "role": "New", "latest": 2.0212345678}],
            checkpoint=checkpoint(10),
            attempt={"number": 1, "firstStep": 1, "lastStep": 12},
        )
        training.wait(10)
        training.settle()
        status = training.status
        assert status["progress"]["tokensPerSecond"] == 81200
        assert status["learningRate"] == 0.000123457
        assert status["evaluation"][0]["latest"] == 2.02123
        assert status["attempts"][0] | {"firstStep": 1, "lastStep": 12} == status["attempts"][0]
        assert training.told("Checkpointed") == ("True", "Committed")
        assert "CheckpointCommitted" in training.event_reasons()

    def test_what_a_report_does_not_say_stays(self, training):
        training.report(A1, 1, evaluation=[{"set": "pubmed", "role": "New", "baseline": 2.3}], learningRate=0.1)
        training.wait(10)
        training.settle()
        training.report(A1, 1, evaluation=[{"set": "pubmed", "role": "New", "latest": 2.1}])
        training.wait(10)
        training.settle()
        assert training.status["evaluation"] == [{"set": "pubmed", "role": "New", "baseline": 2.3, "latest": 2.1}]
        assert training.status["learningRate"] == 0.1

    def test_a_pod_that_makes_sets_up_cannot_fill_the_status(self, training):
        for turn in range(3):
            made_up = [{"set": f"s{turn}-{number}", "role": "New", "latest": 1.0} for number in range(100)]
            training.report(A1, 1, evaluation=made_up)
            training.wait(10)
            training.settle()
        assert len(training.status["evaluation"]) == 128

    def test_heartbeats_write_at_most_once_in_ten_seconds(self, training):
        training.wait(100)
        before = len(training.writes)
        for step in range(60):
            training.wait(1)
            training.report(A1, 1, progress={"step": step, "tokens": step * 1024})
            decision = training.step()
            assert decision.requeue_after is not None
        assert len(training.writes) - before == 6

    def test_a_transition_does_not_wait(self, training):
        training.report(A1, 1, progress={"step": 1})
        training.settle()
        training.fail(A1, 70)
        training.settle()
        assert training.causes() == ["Unknown", None]

    def test_a_report_of_another_pod_or_attempt_is_passed_over(self, training):
        training.report(A1, 2, progress={"step": 99})
        training.wait(10)
        assert training.step().actions == ()

    def test_looking_again_writes_nothing(self, training):
        training.report(A1, 1, progress={"step": 5})
        training.wait(10)
        training.settle()
        training.restart()
        assert training.step().actions == ()

    def test_forgetting_above_its_budget_is_told_once(self, training):
        said = {"decisions": [{"what": "RaiseReplay", "why": "wiki +0.03 above 0.02", "tokens": 5000}]}
        for _ in range(3):
            training.report(A1, 1, progress={"step": 7}, **said)
            training.wait(30)
            training.settle()
        assert training.told("Degraded") == ("True", "ForgettingExceeded")
        assert training.event_reasons().count("ForgettingExceeded") == 1

    def test_what_an_earlier_attempt_told_stays_until_the_next_one_speaks(self, training):
        training.report(A1, 1, decisions=[{"what": "RaiseReplay", "tokens": 5000}])
        training.wait(10)
        training.settle()
        training.fail(A1, 143)
        again(training, A2)
        training.wait(10)
        training.settle()
        assert training.told("Degraded") == ("True", "ForgettingExceeded")
        training.report(A2, 2, progress={"step": 8})
        training.wait(10)
        training.settle()
        assert training.told("Degraded") == ("False", "AsExpected")

    def test_a_warning_is_told_once_and_degrades_nothing(self, training):
        for _ in range(2):
            training.report(A1, 1, warnings=["checkpoint step-10 is damaged: step-5 is used"])
            training.wait(30)
            training.settle()
        assert training.told("Degraded") == ("False", "TrainerWarning")
        assert training.event_reasons().count("TrainerWarning") == 1


class TestNextAttempt:
    def test_counts_are_written_before_the_next_job_is_posted(self, training):
        training.fail(A1, 70)
        patch, *_, create = training.decide().actions
        assert patch.changes["counts"]["attempts"] == 2
        assert patch.changes["attempts"][0]["cause"] == "Unknown"
        assert create.body["metadata"]["name"] == A2

    def test_a_new_commit_clears_the_failures(self, training):
        training.fail(A1, 70)
        again(training, A2)
        training.report(A2, 2, checkpoint=checkpoint(100))
        training.wait(10)
        training.settle()
        assert training.status["counts"]["failures"] == 0
        training.fail(A2, 70)
        training.settle()
        assert training.status["counts"]["failures"] == 1

    def test_a_commit_that_only_the_last_words_tell_counts_too(self, training):
        training.fail(A1, 70)
        again(training, A2)
        training.end_pod(A2, 0, 70, message=last_words(checkpoint=checkpoint(50)))
        training.end_pod(A2, 1, 143)
        training.end_job(A2)
        training.settle()
        assert training.status["counts"]["failures"] == 1
        assert training.status["checkpoint"]["step"] == 50

    def test_the_same_commit_again_clears_nothing(self, training):
        for name in (A1, A2):
            training.report(name, int(name[-1]), checkpoint=checkpoint(100))
            training.wait(10)
            training.settle()
            training.fail(name, 70)
            training.settle()
            training.wait(10)
            again(training, f"llama-a{int(name[-1]) + 1}")
        assert training.status["counts"]["failures"] == 2

    def test_committing_again_what_was_lost_clears_nothing(self, training):
        for number in range(1, 5):
            name = f"llama-a{number}"
            for step in (50, 100):
                training.report(name, number, checkpoint=checkpoint(step))
                training.wait(10)
                training.settle()
            training.fail(name, 70)
            training.settle()
            training.wait(301)
            again(training, f"llama-a{number + 1}") if number < 4 else training.settle()
        assert training.told("Succeeded") == ("False", "Unknown")
        assert training.status["checkpoint"]["step"] == 100

    def test_failures_beyond_the_budget_end_the_run(self, training):
        for number in range(1, 5):
            training.fail(f"llama-a{number}", 70, message="Traceback: boom")
            training.wait(301)
            training.settle()
            if number < 4:
                training.schedule(f"llama-a{number + 1}")
                training.settle()
        assert training.told("Succeeded") == ("False", "Unknown")
        assert "boom" in training.condition("Succeeded")["message"]
        assert training.status["counts"] | {"attempts": 4, "failures": 4} == training.status["counts"]
        assert "Failed" in training.event_reasons()

    def test_a_budget_that_grows_in_time_is_heeded(self, training):
        training.edit("retries", {"maxFailures": 0})
        training.settle()
        training.edit("retries", {"maxFailures": 1})
        training.fail(A1, 70)
        training.settle()
        assert A2 in training.jobs

    def test_disruptions_have_their_own_budget(self, world):
        world.edit("retries", {"maxFailures": 0, "maxDisruptions": 1})
        world.start()
        world.fail(A1, 143)
        again(world, A2)
        assert world.status["counts"]["disruptions"] == 1
        world.fail(A2, 143)
        world.settle()
        assert world.told("Succeeded") == ("False", "Preempted")

    def test_what_is_missing_is_waited_for_without_a_budget(self, training):
        for number in range(1, 13):
            name = f"llama-a{number}"
            message = json.dumps({"version": 1, "message": "s3://models/llama is not there"})
            training.fail(name, 66, message=message)
            training.settle()
            assert training.told("Stalled") == ("True", "MissingInput")
            assert "s3://models/llama" in training.condition("Stalled")["message"]
            assert training.status["summary"] == "Retrying"
            training.wait(301)
            training.settle()
            assert training.told("Stalled") == ("True", "MissingInput"), "it stays in sight while it is looked for"
            again(training, f"llama-a{number + 1}")
        told = {(event.reason, event.message) for event in training.events if "s3://models/llama" in event.message}
        assert len(told) == 1, "the recorder makes one Event of them"
        assert training.status["counts"] | {"failures": 0, "disruptions": 0} == training.status["counts"]
        assert [entry["number"] for entry in training.status["attempts"]] == list(range(4, 14)), "the newest ten"
        assert sorted(name for name in training.jobs if "-a" in name) == ["llama-a11", "llama-a12", "llama-a13"]

    @pytest.mark.parametrize(("code", "cause"), [(64, "InvalidSpec"), (65, "BadData"), (76, "Diverged")])
    def test_what_no_retry_can_mend_ends_the_run(self, training, code, cause):
        training.fail(A1, code)
        training.settle()
        assert training.told("Succeeded") == ("False", cause)
        assert A2 not in training.jobs

    def test_a_job_deleted_by_hand_was_preempted(self, training):
        training.delete_job(A1)
        training.settle()
        assert training.causes() == ["Preempted", None]
        assert list(training.live_jobs()) == [A2]

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_a_number_is_not_used_again_when_its_job_is_deleted_before_its_entry_is_written(self, world, is_restarted):
        world.settle()
        world.succeed_prepare()
        while A1 not in world.jobs:
            world.step()
        world.schedule(A1)
        world.delete_job(A1)
        if is_restarted:
            world.restart()
        world.settle()
        assert world.causes() == ["Preempted", None]
        assert world.posted.count(A1) == 1
        assert list(world.live_jobs()) == [A2]

    def test_a_job_deleted_by_hand_after_rank_0_had_finished_is_completed(self, training):
        training.report(A1, 1, outcome="Succeeded")
        training.wait(10)
        training.settle()
        training.delete_job(A1)
        training.settle()
        assert training.causes() == ["Completed"]

    def test_what_rank_0_said_last_is_asked_for_when_the_watch_of_pods_is_late(self, training):
        """The API server was away for minutes: the Job is seen as it is, and its pods as they were."""
        training.end_job(A1, "Complete", "SuccessPolicy")
        training.wait(120)
        asked = ListPods(training.jobs[A1]["metadata"]["uid"])
        assert training.step().actions == (asked,)
        training.end_pod(A1, 0, 0, message=last_words(checkpoint=checkpoint(64)))
        training.end_pod(A1, 1, 0)
        training.settle()
        assert training.causes() == ["Completed"]
        assert training.told("Checkpointed") == ("True", "Committed")

    def test_a_job_that_still_holds_pods_goes_before_the_next_comes(self, training):
        training.end_pod(A1, 1, 70)
        training.end_job(A1, "FailureTarget")
        training.wait(attempts.LIST_AFTER_SECONDS)
        training.settle()
        training.wait(attempts.SETTLE_SECONDS)
        kinds = [type(action).__name__ for action in training.decide().actions]
        assert [kind for kind in kinds if kind != "Emit"] == ["PatchStatus", "DeleteJob", "Create"]

    def test_numbers_are_never_used_twice_even_when_the_status_was_lost(self, training):
        training.fail(A1, 70)
        again(training, A2)
        training.run["status"]["counts"]["attempts"] = 1
        training.run["status"]["attempts"] = []
        training.fail(A2, 70)
        training.settle()
        assert "llama-a3" in training.jobs


def test_containers_that_ended_before_their_pods_did_not_start_anew(world: World) -> None:
    world.start()
    for rank, pod in enumerate(world.pods_of(world.jobs["llama-a1"])):
        world.end_pod("llama-a1", rank)
        pod["status"]["phase"] = "Running"
    world.wait(30)
    world.settle()
    assert world.told("Running")[0] == "True"
    assert world.status["summary"] == "Training"

"""The verdict, MLflow, promotion, cleaning up, and deleting."""

from __future__ import annotations

import pytest
from operator_world import World

from rewarm_api.reported import Report, Termination
from rewarm_operator import actions as a
from rewarm_operator.observed import Heartbeat

A1 = "llama-a1"
CHECKPOINT = {"uri": "s3://runs/llama/checkpoints/step-00001954", "step": 1954}


def verdict(*results: str, promoted: bool = False, **more) -> Termination:
    gates = [{"name": "maxForgetting", "limit": 0.02, "value": 0.01, "result": result} for result in results]
    report = {
        "outcome": "Succeeded",
        "checkpoint": CHECKPOINT,
        "gates": gates,
        "promotion": {"promoted": promoted, "reason": "as the trainer says"},
        **more,
    }
    return Termination(outcome="Succeeded", report=Report.model_validate(report), tags={"rewarm.dev/base": "llama"})


def tracked(**changes) -> World:
    world = World(tracking={"uri": "http://mlflow:5000", "promoteAlias": "best"}, **changes)
    world.start()
    return world


def finished(world: World, *results: str) -> World:
    world.succeed(A1, verdict(*results, promoted=set(results) == {"Pass"}))
    world.settle()
    return world


class TestVerdict:
    @pytest.mark.parametrize(
        ("results", "reason", "passed"),
        [
            (["Pass"], "GatesPassed", "True"),
            (["Pass", "Fail"], "GatesFailed", "False"),
            (["Inconclusive"], "GatesInconclusive", "False"),
            (["Inconclusive", "Fail"], "GatesFailed", "False"),
        ],
    )
    def test_trained_and_judged_is_success_whatever_the_gates_say(self, training, results, reason, passed):
        finished(training, *results)
        assert training.told("Succeeded") == ("True", reason)
        assert training.told("GatesPassed") == (passed, reason)
        assert training.told("Evaluated")[0] == "True"
        assert training.told("Running") == ("False", "Finished")
        assert training.status["summary"] == "Succeeded"
        assert training.causes() == ["Completed"]
        assert training.status["checkpoint"] == CHECKPOINT
        assert {reason, "Succeeded"} <= set(training.event_reasons())

    def test_without_gates_nothing_is_promoted(self):
        world = tracked(gates=None)
        finished(world)
        assert world.told("Succeeded") == ("True", "NoGates")
        assert world.status["promotion"]["promoted"] is False
        assert world.registry.promoted_alias == ""

    def test_a_verdict_that_did_not_arrive_promotes_nothing(self):
        world = tracked()
        world.succeed(A1)
        world.wait(10)
        world.settle()
        assert world.told("Succeeded") == ("True", "GatesInconclusive")
        assert world.registry.promoted_alias == ""

    def test_one_gate_of_two_that_passed_promotes_nothing(self):
        world = tracked(gates={"maxForgetting": 0.02, "minGain": 0.05})
        finished(world, "Pass")
        assert world.told("Succeeded") == ("True", "GatesInconclusive")
        assert "minGain" in world.condition("GatesPassed")["message"]
        assert world.registry.promoted_alias == ""

    def test_the_last_heartbeat_tells_as_much_as_the_last_words(self, training):
        said = verdict("Pass").report
        training.report(A1, 1, **said.to_json())
        training.succeed(A1)
        training.settle()
        assert training.told("Succeeded") == ("True", "GatesPassed")

    def test_it_never_changes_back(self, training):
        finished(training, "Pass")
        before = training.condition("Succeeded")
        training.jobs.clear()
        training.pods.clear()
        training.edit("retries", {"maxFailures": 9})
        training.edit("suspend", True)
        training.restart()
        training.wait(1000)
        training.settle()
        assert training.condition("Succeeded") == before | {"observedGeneration": 3}
        assert training.status["summary"] == "Succeeded"


class TestTracking:
    def test_the_run_is_made_with_attempt_1_and_its_id_given_to_later_pods(self):
        world = tracked()
        assert world.tracks[0].uid == "run-uid"
        assert world.tracks[0].experiment == "llama"
        assert world.status["tracking"] == {"runId": "mlflow-run", "url": "http://mlflow/#/runs/mlflow-run"}
        container = world.jobs[A1]["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "REWARM_TRACKING_RUN_ID", "value": "mlflow-run"} in container["env"]

    def test_training_does_not_wait_for_a_server_that_is_away(self):
        world = World(tracking={"uri": "http://mlflow:5000"})
        world.mlflow_is_away = True
        world.start()
        assert world.told("Running")[0] == "True"
        assert world.told("Degraded") == ("True", "TrackingUnavailable")
        finished(world, "Pass")
        assert world.told("Succeeded") == ("True", "GatesPassed")
        assert world.told("Registered") == ("Unknown", "TrackingUnavailable")
        assert world.decide().requeue_after <= 30
        world.mlflow_is_away = False
        world.settle()
        world.settle()
        assert world.told("Registered") == ("True", "Registered")

    def test_version_then_alias_then_terminal_status_only_when_the_gates_passed(self):
        world = finished(tracked(), "Pass")
        last = world.tracks[-1]
        assert (last.source, last.model, last.alias, last.end) == (CHECKPOINT["uri"], "llama", "best", "FINISHED")
        assert last.version_tags["rewarm.dev/base"] == "llama"
        assert world.told("Registered") == ("True", "Registered")
        assert world.status["promotion"]["promoted"] is True
        assert world.status["tracking"]["modelVersion"] == "7"
        assert world.event_reasons().count("Promoted") == 1

    @pytest.mark.parametrize("result", ["Fail", "Inconclusive"])
    def test_no_alias_moves_when_a_gate_did_not_pass(self, result):
        world = finished(tracked(), result)
        assert not [track for track in world.tracks if track.alias]
        assert world.told("Registered") == ("True", "Registered")
        assert world.status["promotion"] == {"promoted": False, "reason": "as the trainer says"}

    def test_a_trunk_is_never_promoted(self):
        schedule = {
            "kind": "Infinite",
            "peakLearningRate": 3e-4,
            "constantLearningRate": 1e-4,
            "cooldown": {"length": "10%"},
        }
        world = finished(tracked(schedule=schedule), "Pass")
        assert not [track for track in world.tracks if track.alias]

    def test_a_version_that_the_trainer_registered_is_not_registered_again(self):
        world = tracked()
        world.succeed(A1, verdict("Pass", modelVersion="12"))
        world.settle()
        assert not [track for track in world.tracks if track.source]
        assert (world.tracks[-1].version, world.tracks[-1].alias) == ("12", "best")
        assert world.status["tracking"]["modelVersion"] == "12"

    def test_a_failed_run_ends_as_failed(self):
        world = tracked()
        world.fail(A1, 65)
        world.settle()
        assert world.registry.ended == "FAILED"
        assert world.told("Registered") == ("False", "NothingToRegister")

    def test_tracking_that_is_off_is_said_and_nothing_asked(self, training):
        finished(training, "Pass")
        assert training.tracks == []
        assert training.told("Registered") == ("False", "TrackingOff")


class TestAfterwards:
    def test_a_finished_run_costs_nothing_after_a_restart(self):
        world = finished(tracked(), "Pass")
        world.restart()
        world.wait(3600)
        assert world.decide() == a.Decision()

    def test_promoting_by_annotation(self):
        world = finished(tracked(), "Fail")
        world.annotate("rewarm.dev/promote", "true")
        world.settle()
        assert (world.registry.promoted_alias, world.registry.promoted_version) == ("best", "7")
        assert world.status["promotion"]["promoted"] is True
        assert world.run["metadata"]["annotations"] == {}
        assert world.event_reasons().count("Promoted") == 1

    @pytest.mark.parametrize(("serving", "now"), [({"best": "9"}, "version 9"), ({}, "nobody")])
    def test_what_was_promoted_once_is_not_promoted_again_by_itself(self, serving, now):
        """A run made again on a rebuilt cluster: its verdict is old, and people have decided since."""
        world = tracked()
        world.promoted_before, world.aliases = {"7"}, dict(serving)
        finished(world, "Pass")
        assert world.aliases == serving
        assert world.told("Registered")[0] == "True"
        assert world.status["promotion"]["promoted"] is False
        assert (
            f"version 7 was promoted before; best of llama is {now} since then" in world.status["promotion"]["reason"]
        )
        assert "Promoted" not in world.event_reasons()
        world.annotate("rewarm.dev/promote", "true")
        world.settle()
        assert world.aliases == {"best": "7"}

    def test_rolling_back_to_an_older_version(self):
        world = finished(tracked(), "Pass")
        world.annotate("rewarm.dev/promote", "3")
        world.settle()
        assert world.registry.promoted_version == "3"
        assert world.status["promotion"]["promoted"] is False
        assert world.run["metadata"]["annotations"] == {}
        assert world.status["tracking"]["modelVersion"] == "7"

    def test_an_alias_that_another_run_has_taken_since_is_taken_back(self):
        world = finished(tracked(), "Pass")
        for _ in range(2):
            world.aliases["best"] = "9"
            world.annotate("rewarm.dev/promote", "true")
            world.settle()
            assert world.aliases["best"] == "7"
            assert world.run["metadata"]["annotations"] == {}

    def test_a_version_that_is_not_there_is_refused_once(self):
        world = finished(tracked(), "Pass")
        world.missing_versions = {"99"}
        world.annotate("rewarm.dev/promote", "99")
        world.settle()
        assert world.aliases["best"] == "7"
        assert "has no version 99" in world.status["promotion"]["reason"]
        assert world.status["promotion"]["promoted"] is True
        assert world.event_reasons().count("PromotionRefused") == 1
        assert world.run["metadata"]["annotations"] == {}

    @pytest.mark.parametrize("asked", ["yes please", "true"])
    def test_what_cannot_be_promoted_is_refused_once(self, training, asked):
        finished(training, "Pass")
        training.annotate("rewarm.dev/promote", asked)
        training.settle()
        assert training.event_reasons().count("PromotionRefused") == 1
        assert training.run["metadata"]["annotations"] == {}

    def test_a_promotion_waits_for_the_verdict(self):
        world = tracked()
        world.annotate("rewarm.dev/promote", "true")
        world.settle()
        assert not [track for track in world.tracks if track.alias]
        finished(world, "Fail")
        world.settle()
        assert world.registry.promoted_version == "7"

    def test_jobs_live_as_long_as_asked(self):
        world = finished(tracked(ttlSecondsAfterFinished=600), "Pass")
        assert world.decide().requeue_after == 600
        world.wait(600)
        world.settle()
        assert not world.jobs
        assert world.decide() == a.Decision()

    @pytest.mark.parametrize("has_final_word", [True, False])
    def test_a_completed_attempt_has_time_to_end_by_itself(self, training, has_final_word):
        for rank in (1, 0):
            training.end_pod(A1, rank, 0, message=verdict("Pass").to_message() if rank == 0 else "")
        training.end_job(A1, "SuccessCriteriaMet", "SuccessPolicy")
        training.settle()
        assert training.told("Succeeded") == ("True", "GatesPassed")
        assert A1 in training.jobs
        if has_final_word:
            training.end_job(A1, "Complete", "CompletionsReached")
        training.wait(training.decide().requeue_after or 0)
        training.settle()
        assert (A1 in training.jobs) is has_final_word

    def test_without_a_time_to_live_they_stay(self, training):
        finished(training, "Pass")
        training.wait(10**7)
        training.settle()
        assert sorted(training.jobs) == ["llama-a1", "llama-prepare"]


def test_the_last_commit_of_a_suspended_attempt_counts_when_its_pod_is_gone_first(training):
    training.edit("suspend", True)
    training.settle()
    assert A1 not in training.jobs
    training.heartbeat = last_words(training, checkpoint={"uri": "s3://runs/llama/step-00000106", "step": 106})
    training.settle()
    assert training.causes() == ["Suspended"]
    assert training.status["checkpoint"]["step"] == 106


def last_words(world: World, **said) -> Heartbeat:
    """What rank 0 of attempt 1 posts after its Job is gone."""
    return Heartbeat(1, "uid-of-a-pod-that-is-gone", world.now, Report.model_validate(said))


class TestDeletion:
    def test_jobs_go_then_mlflow_is_ended_then_the_finalizer(self):
        world = tracked()
        uid = world.jobs[A1]["metadata"]["uid"]
        world.delete_run()
        world.step()
        assert not world.jobs
        assert uid
        world.settle()
        assert world.registry.ended == "KILLED"
        assert world.run is None

    def test_a_finished_run_keeps_its_verdict_in_mlflow(self):
        world = finished(tracked(), "Pass")
        world.delete_run()
        world.settle()
        assert world.registry.ended == "FINISHED"
        assert world.run is None

    def test_a_verdict_that_mlflow_has_not_heard_of_yet_stands(self):
        world = tracked()
        world.mlflow_is_away = True
        finished(world, "Pass")
        world.mlflow_is_away = False
        world.delete_run()
        world.settle()
        assert world.registry.ended == "FINISHED"

    def test_a_tracking_server_that_is_away_does_not_hold_it(self):
        world = tracked()
        world.mlflow_is_away = True
        world.delete_run()
        for _ in range(3):
            world.step()
        assert world.run is not None
        world.wait(60)
        world.settle()
        assert world.run is None

    def test_an_invalid_spec_and_missing_children_are_no_obstacle(self, training):
        training.run["spec"] = {"compute": {"nodes": "many"}}
        training.config_map = training.service = None
        training.delete_run()
        training.settle()
        assert training.run is None
        assert not training.jobs

    def test_without_our_finalizer_there_is_nothing_to_do(self):
        world = World(suspend=True)
        world.settle()
        world.run["metadata"]["finalizers"] = ["somebody.else/x"]
        world.delete_run()
        assert world.decide() == a.Decision()

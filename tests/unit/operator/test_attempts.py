"""The cause table, row by row, and what an end costs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_world import START, World, stamp

from rewarm_api.reported import Report, Termination
from rewarm_operator import attempts

A1 = "llama-a1"


def judge(world: World, **more) -> attempts.Judged:
    observed = world.observed()
    job = next(job for job in observed.jobs if job["metadata"]["name"] == A1)
    listed = observed.listed.get(job["metadata"]["uid"])
    return attempts.judge(job, observed.pods, world.now, margin=60, listed=listed, **more)


def ask_for_pods(world: World) -> None:
    """What their watch has not told a moment after the verdict is asked for; then only deleted ones can say more."""
    world.wait(attempts.LIST_AFTER_SECONDS)
    assert judge(world) == attempts.Judged(asks_for_pods=True)
    world.listed[world.jobs[A1]["metadata"]["uid"]] = world.now
    assert judge(world) == attempts.Judged(look_again=attempts.SETTLE_SECONDS)
    world.wait(attempts.SETTLE_SECONDS)


def cause(world: World, **more) -> str:
    end = judge(world, **more).end
    assert end is not None
    return end.cause


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (64, "InvalidSpec"),
        (65, "BadData"),
        (66, "MissingInput"),
        (70, "Unknown"),
        (1, "Unknown"),
        (137, "Unknown"),
        (75, "DependencyUnavailable"),
        (76, "Diverged"),
        (143, "Preempted"),
    ],
)
def test_an_exit_code_names_its_cause(training, code, expected):
    training.fail(A1, code, rank=1)
    assert cause(training) == expected


def test_a_container_that_was_killed_for_memory(training):
    training.fail(A1, 137, rank=0, reason="OOMKilled")
    assert cause(training) == "OutOfMemory"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("PreemptionByScheduler", "Preempted"),
        ("EvictionByEvictionAPI", "Evicted"),
        ("TerminationByKubelet", "Evicted"),
        ("DeletionByTaintManager", "NodeLost"),
        ("DeletionByPodGC", "NodeLost"),
    ],
)
def test_a_disruption_wins_over_every_exit_code(training, reason, expected):
    training.fail(A1, 65, rank=0)
    training.disrupt(A1, 1, reason)
    assert cause(training) == expected


def test_the_container_that_ended_first_gives_the_cause(training):
    training.end_pod(A1, 1, 65)
    training.wait(1)
    training.end_pod(A1, 0, 70)
    training.end_job(A1)
    assert cause(training) == "BadData"


def test_on_a_tie_the_lowest_rank_gives_the_cause(training):
    training.end_pod(A1, 1, 65)
    training.end_pod(A1, 0, 70)
    training.end_job(A1)
    assert cause(training) == "Unknown"


def test_a_rank_that_ended_well_is_no_cause(training):
    training.end_pod(A1, 1, 0)
    training.wait(1)
    training.end_pod(A1, 0, 76)
    training.end_job(A1)
    assert cause(training) == "Diverged"


def test_rank_0_succeeded_whatever_the_job_says(training):
    training.end_pod(A1, 0, 0)
    training.end_pod(A1, 1, 1)
    training.end_job(A1, "Failed", "BackoffLimitExceeded")
    assert cause(training) == "Completed"


def test_a_completion_record_counts_when_rank_0_was_lost_after_it(training):
    training.fail(A1, 137, rank=0)
    assert cause(training, finished_by_record=True) == "Completed"


def test_a_complete_job_without_pods_is_completed(training):
    training.pods.clear()
    training.end_job(A1, "Complete", "SuccessPolicy")
    ask_for_pods(training)
    assert cause(training) == "Completed"


def test_pods_that_are_gone_after_a_disruption_were_evicted(training):
    training.pods.clear()
    message = "Pod research/llama-a1-1 has condition DisruptionTarget matching FailJob rule at index 0"
    training.end_job(A1, "Failed", "PodFailurePolicy", message)
    ask_for_pods(training)
    assert cause(training) == "Evicted"


def test_the_evicted_pod_may_be_gone_before_those_that_were_stopped_because_of_it(training):
    training.end_pod(A1, 1, 143)
    del training.pods[training.pod(A1, 0)["metadata"]["name"]]
    message = "Pod research/llama-a1-0 has condition DisruptionTarget matching FailJob rule at index 0"
    training.end_job(A1, "Failed", "PodFailurePolicy", message)
    ask_for_pods(training)
    assert cause(training) == "Evicted"


def test_the_job_tells_the_code_of_a_pod_that_is_gone(training):
    training.pods.clear()
    message = "Container trainer for pod research/llama-a1-1 failed with exit code 65 matching FailJob rule at index 1"
    training.end_job(A1, "Failed", "PodFailurePolicy", message)
    ask_for_pods(training)
    assert cause(training) == "BadData"


def test_a_pod_that_was_deleted_with_its_exit_code_was_taken_away(training):
    training.pods.clear()
    training.end_job(A1, "Failed", "BackoffLimitExceeded")
    ask_for_pods(training)
    assert cause(training) == "Preempted"


def test_a_pod_that_its_node_rejects_is_named_with_the_reason(training):
    rejection = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no healthy nvidia.com/gpu"}
    training.pod(A1, 1)["status"] = rejection
    training.end_job(A1)
    ask_for_pods(training)
    end = judge(training).end
    assert end is not None
    assert end.cause == "Unknown"
    assert "UnexpectedAdmissionError: no healthy nvidia.com/gpu" in end.message


def test_a_verdict_waits_a_moment_for_the_last_words_of_the_pods(training):
    training.end_job(A1)
    assert judge(training) == attempts.Judged(look_again=2.0)
    training.wait(1.5)
    assert judge(training).end is None
    training.end_pod(A1, 1, 65)
    training.end_pod(A1, 0, 143)
    assert cause(training) != "", "both pods have ended: no reason to wait"


def test_an_old_verdict_waits_as_well_for_pods_that_seem_to_run(training):
    """After an outage the watch of Jobs may be back before that of the pods."""
    training.end_job(A1, "Complete", "SuccessPolicy")
    training.wait(300)
    assert judge(training) == attempts.Judged(asks_for_pods=True)
    training.end_pod(A1, 0, 0)
    training.end_pod(A1, 1, 0)
    assert cause(training) == "Completed"


def test_failure_target_ends_the_attempt_although_a_pod_still_stands(training):
    training.end_pod(A1, 1, 70)
    training.end_job(A1, "FailureTarget")
    assert judge(training).end is None
    ask_for_pods(training)
    assert cause(training) == "Unknown"


def test_a_pod_that_does_not_go_is_on_a_lost_node(training):
    pod = training.pod(A1, 1)
    pod["metadata"]["deletionTimestamp"] = stamp(training.now + timedelta(seconds=300))
    assert judge(training) == attempts.Judged(look_again=360.0)
    training.wait(359)
    assert judge(training).end is None
    training.wait(1)
    assert cause(training) == "NodeLost"


def test_a_deleted_pod_that_has_ended_is_not_stuck(training):
    training.end_pod(A1, 1, 143)
    training.pod(A1, 1)["metadata"]["deletionTimestamp"] = stamp(training.now)
    training.wait(1000)
    assert judge(training) == attempts.Judged()


def test_a_deleted_pod_that_did_not_end_within_its_grace_was_taken_away(training):
    training.fail(A1, 137, rank=1)
    training.pod(A1, 1)["metadata"]["deletionTimestamp"] = stamp(training.now)
    assert cause(training) == "Preempted"


def test_a_job_that_kueue_holds_has_not_ended(training):
    training.jobs[A1]["spec"]["suspend"] = True
    training.pod(A1, 1)["metadata"]["deletionTimestamp"] = stamp(training.now)
    training.wait(1000)
    assert judge(training) == attempts.Judged()


def test_pods_of_before_a_requeue_do_not_speak_for_the_attempt(training):
    training.end_pod(A1, 0, 65)
    training.wait(60)
    training.schedule(A1)
    training.wait(1)
    training.end_pod(A1, 0, 76)
    training.end_pod(A1, 1, 143)
    training.end_job(A1)
    assert cause(training) == "Diverged"


def test_rank_0_has_the_last_word_even_when_another_failed_first(training):
    said = Termination(outcome="Preempted", report=Report.model_validate({"checkpoint": {"uri": "s3://c", "step": 9}}))
    training.end_pod(A1, 1, 70, message="Traceback: out of luck")
    training.wait(1)
    training.end_pod(A1, 0, 143, message=said.to_message())
    training.end_job(A1)
    end = judge(training).end
    assert end is not None
    assert end.cause == "Unknown"
    assert end.message == "rank 1 exited with 70: Traceback: out of luck"
    assert end.termination == said


@pytest.mark.parametrize(
    ("cause", "budget"),
    [
        ("Preempted", "disruptions"),
        ("Evicted", "disruptions"),
        ("NodeLost", "disruptions"),
        ("Hang", "failures"),
        ("OutOfMemory", "failures"),
        ("Unknown", "failures"),
        ("MissingInput", ""),
        ("DependencyUnavailable", ""),
        ("Suspended", ""),
        ("Completed", ""),
        ("BadData", ""),
    ],
)
def test_what_an_end_costs(cause, budget):
    assert attempts.budget_of(cause) == budget


def test_a_disruption_waits_for_nothing_and_what_is_missing_for_longer_and_longer():
    assert attempts.backoff("Preempted", 9, "u") == 0
    assert attempts.backoff("Unknown", 1, "u") == 0
    waits = [attempts.backoff("MissingInput", tries, "u") for tries in range(1, 9)]
    assert 9 <= waits[0] <= 10
    assert all(270 <= wait <= 300 for wait in waits[5:])


@given(st.sampled_from(["MissingInput", "DependencyUnavailable", "Unknown", "Hang"]), st.integers(1, 10**6), st.text())
def test_a_backoff_is_bounded_and_always_the_same(cause, tries, seed):
    wait = attempts.backoff(cause, tries, seed)
    assert 0 <= wait <= 300
    assert wait == attempts.backoff(cause, tries, seed)


def test_ends_in_a_row_are_those_of_one_kind():
    entries = [{"cause": cause} for cause in ("Unknown", "MissingInput", "DependencyUnavailable")]
    assert attempts.ends_in_a_row(entries) == 2
    assert attempts.ends_in_a_row([*entries, {"cause": "Preempted"}]) == 1
    assert attempts.ends_in_a_row([{"cause": "Hang"}, {"cause": "Unknown"}, {"number": 3}]) == 2
    assert attempts.ends_in_a_row([]) == 0


def test_the_wait_counts_from_the_end():
    assert attempts.due_after(START, 10, START + timedelta(seconds=4)) == 6
    assert attempts.due_after(START, 10, START + timedelta(seconds=40)) == 0

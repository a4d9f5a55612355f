"""Metrics: the names that charts and alerts stand on, values from a status, and nothing left of a deleted run."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rewarm_operator.metrics import Metrics, Sources
from rewarm_operator.run_metrics import FAMILIES

NAMES = {
    "rewarm_operator_queue_depth", "rewarm_operator_reconcile_seconds", "rewarm_operator_api_requests",
    "rewarm_operator_runs", "rewarm_operator_leader", "rewarm_run_info", "rewarm_run_progress_ratio",
    "rewarm_run_tokens", "rewarm_run_target_tokens", "rewarm_run_tokens_per_second", "rewarm_run_learning_rate",
    "rewarm_run_eval_loss", "rewarm_run_eval_baseline_loss", "rewarm_run_eval_delta", "rewarm_run_forgetting_max",
    "rewarm_run_gain_mean", "rewarm_run_forgetting_budget", "rewarm_run_replay_share",
    "rewarm_run_replay_ratio_requested", "rewarm_run_attempts", "rewarm_run_failures", "rewarm_run_disruptions",
    "rewarm_run_checkpoint_committed_timestamp_seconds", "rewarm_run_checkpoint_step", "rewarm_run_condition",
    "rewarm_run_gpus", "rewarm_run_gpu_seconds", "rewarm_run_useful_gpu_seconds",
    "rewarm_run_heartbeat_timestamp_seconds",
}  # fmt: skip
WHERE = {"namespace": "team", "run": "llama"}
RUN: dict[str, Any] = {
    "metadata": {"namespace": "team", "name": "llama", "uid": "u1"},
    "spec": {"gates": {"maxForgetting": 0.02}, "compute": {"nodes": 2, "gpusPerNode": 8}},
    "status": {
        "summary": "Training",
        "conditions": [{"type": "Running", "status": "False"}, {"type": "Succeeded", "status": "Unknown"}],
        "progress": {"step": 3, "tokens": 750, "targetTokens": 1000, "tokensPerSecond": 10.5},
        "learningRate": 0.0003,
        "evaluation": [
            {"set": "general", "role": "Retained", "baseline": 2.0, "latest": 2.1, "delta": {"mean": 0.1}},
            {"set": "pubmed", "role": "New", "baseline": 3.0, "latest": 2.5},
        ],
        "forgetting": {"max": 0.1},
        "gain": {"mean": 0.5},
        "replay": {"requested": 0.25, "realized": 0.2496},
        "counts": {"attempts": 2, "failures": 1, "disruptions": 0},
        "checkpoint": {"uri": "s3://x/", "step": 2, "committedAt": "2026-11-21T12:00:00Z"},
        "trainingSeconds": 100,
        "attempts": [{"number": 1, "tokensRecomputed": 250}, {"number": 2}],
    },
}  # fmt: skip


def metrics(runs: list[dict[str, Any]], *, leading: bool = True) -> Metrics:
    requests = Counter({("patch", "200"): 5, ("create", "error"): 1})
    heard = {"u1": datetime(2026, 11, 21, 12, 0, tzinfo=UTC)}
    return Metrics(
        Sources(
            depth=lambda: 4, leading=lambda: leading, requests=lambda: requests, runs=lambda: runs,
            heartbeats=lambda: heard,
        )
    )  # fmt: skip


def parsed(made: Metrics) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(made.text().decode())}


def value(families: dict[str, Any], family: str, sample: str = "", **labels: str) -> float:
    (found,) = [
        each.value for each in families[family].samples if each.name == (sample or family) and each.labels == labels
    ]
    return float(found)


def test_every_name_of_the_contract_is_there_and_no_other():
    made = metrics([RUN])
    made.took("done", 0.01)
    assert set(parsed(made)) == NAMES
    assert set(FAMILIES) < NAMES


def test_values_come_from_the_status():
    families = parsed(metrics([RUN]))
    assert value(families, "rewarm_run_info", **WHERE, summary="Training") == 1
    assert value(families, "rewarm_run_progress_ratio", **WHERE) == 0.75
    assert value(families, "rewarm_run_eval_delta", **WHERE, set="general", role="Retained") == 0.1
    assert value(families, "rewarm_run_forgetting_budget", **WHERE) == 0.02
    assert value(families, "rewarm_run_replay_share", **WHERE) == 0.2496
    assert value(families, "rewarm_run_failures", **WHERE) == 1
    assert value(families, "rewarm_run_condition", **WHERE, condition="Running", status="False") == 1
    assert value(families, "rewarm_run_checkpoint_committed_timestamp_seconds", **WHERE) == 1795262400
    assert value(families, "rewarm_run_gpus", **WHERE) == 0
    assert value(families, "rewarm_run_gpu_seconds", "rewarm_run_gpu_seconds_total", **WHERE) == 1600
    useful = value(families, "rewarm_run_useful_gpu_seconds", "rewarm_run_useful_gpu_seconds_total", **WHERE)
    assert useful == 1200


def test_a_running_attempt_holds_its_gpus_and_their_seconds_grow():
    since = (datetime.now(UTC) - timedelta(seconds=50)).isoformat()
    running = {"type": "Running", "status": "True", "lastTransitionTime": since}
    families = parsed(metrics([{**RUN, "status": {**RUN["status"], "conditions": [running]}}]))
    assert value(families, "rewarm_run_gpus", **WHERE) == 16
    seconds = value(families, "rewarm_run_gpu_seconds", "rewarm_run_gpu_seconds_total", **WHERE)
    assert 2400 <= seconds < 2500


def test_the_operators_own_numbers():
    families = parsed(metrics([RUN]))
    assert value(families, "rewarm_operator_queue_depth") == 4
    assert value(families, "rewarm_operator_leader") == 1
    total = "rewarm_operator_api_requests_total"
    assert value(families, "rewarm_operator_api_requests", total, verb="create", code="error") == 1
    assert value(families, "rewarm_operator_runs", condition="Succeeded", status="Unknown") == 1


def test_a_deleted_run_leaves_nothing():
    runs = [RUN]
    made = metrics(runs)
    assert b'run="llama"' in made.text()
    runs.clear()
    assert b"llama" not in made.text()


def test_a_standby_does_not_tell_of_runs_a_second_time():
    families = parsed(metrics([RUN], leading=False))
    assert all(not families[name].samples for name in FAMILIES)
    assert value(families, "rewarm_operator_leader") == 0


def test_a_run_of_which_nothing_is_known_yet():
    bare = {"metadata": RUN["metadata"], "spec": {}}
    families = parsed(metrics([bare]))
    assert value(families, "rewarm_run_info", **WHERE, summary="Pending") == 1
    assert families["rewarm_run_tokens"].samples == []

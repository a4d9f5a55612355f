"""From `kubectl apply` to a promoted model: two nodes, real text, and every place that a user looks at afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import mlflow
import pytest
from cluster_world import GROUP, NAMESPACE, SYSTEM, ClusterWorld, causes, condition, status_of

STEPS = 400


@dataclass(frozen=True)
class Story:
    """A run that was watched while it trained, and has ended."""

    name: str
    run: dict[str, Any]
    pods: list[dict[str, Any]]
    scraped: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def story(world: ClusterWorld) -> Story:
    name = world.submit(world.manifest("story", steps=STEPS))
    world.wait_training(name)
    pods = world.pods(name)
    scraped = {
        metric: world.prometheus.wait(f'{metric}{{run="{name}",namespace="{NAMESPACE}"}}')
        for metric in ("rewarm_training_tokens_total", "rewarm_run_info", "rewarm_run_progress_ratio")
    }
    return Story(name, world.wait_succeeded(name), pods, scraped)


def test_every_condition_is_there_and_says_how_it_ended(story):
    expected = {
        **dict.fromkeys(("Succeeded", "SpecValid", "DataReady", "Checkpointed", "Evaluated"), "True"),
        **dict.fromkeys(("GatesPassed", "Registered"), "True"),
        **dict.fromkeys(("Suspended", "Stalled", "Degraded", "Running"), "False"),
    }
    assert {kind: status_of(story.run, kind) for kind in expected} == expected
    assert condition(story.run, "Succeeded")["reason"] == "GatesPassed"
    assert condition(story.run, "Admitted")
    assert story.run["status"]["observedGeneration"] == story.run["metadata"]["generation"]


def test_the_status_tells_the_whole_run(story):
    status = story.run["status"]
    assert status["summary"] == "Succeeded"
    assert (status["progress"]["step"], status["progress"]["percent"]) == (STEPS, 100)
    assert {name: status["counts"][name] for name in ("attempts", "failures", "disruptions")} == {
        "attempts": 1,
        "failures": 0,
        "disruptions": 0,
    }
    assert causes(story.run) == ["Completed"]
    assert {item["set"]: item["role"] for item in status["evaluation"]} == {"code": "New", "general": "Retained"}
    assert all(item["latest"] < item["baseline"] for item in status["evaluation"])
    assert status["replay"]["realized"] == pytest.approx(0.25, abs=0.01)
    assert {item["name"]: item["result"] for item in status["gates"]} == {"maxForgetting": "Pass", "minGain": "Pass"}
    assert status["checkpoint"]["step"] == STEPS


def test_two_pods_trained_as_restricted_as_pods_can_be(world, story):
    assert [pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in story.pods] == ["0", "1"]
    namespace = world.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in story.pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_the_table_and_the_events_tell_it_too(world, story):
    table = world.cluster.kubectl("get", "crun", story.name, "-n", NAMESPACE)
    assert "Succeeded" in table
    events = world.events(story.name)
    assert {"AttemptStarted", "CheckpointCommitted", "GatesPassed", "Promoted"} <= set(events)
    assert events.count("AttemptStarted") == 1


def test_the_children_are_those_of_the_contract(world, story):
    assert world.jobs(story.name) == [f"{story.name}-a1", f"{story.name}-prepare"]
    service = world.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/{story.name}")
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    config = world.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{story.name}")
    assert json.loads(config["data"]["snapshot.json"])["digest"] == story.run["status"]["snapshotDigest"]


def test_prometheus_saw_it_train_and_end(world, story):
    ranks = {sample["metric"]["node_rank"] for sample in story.scraped["rewarm_training_tokens_total"]}
    assert "0" in ranks
    assert world.prometheus.wait(f'rewarm_run_progress_ratio{{run="{story.name}"}} == 1')
    assert world.prometheus.wait(f'rewarm_run_condition{{run="{story.name}",condition="Succeeded",status="True"}} == 1')
    assert world.prometheus.query("sum(rewarm_operator_leader)")[0]["value"][1] == "1"


def test_mlflow_holds_one_finished_run_its_numbers_and_the_champion(world, story):
    client = mlflow.MlflowClient(tracking_uri=world.mlflow_url, registry_uri=world.mlflow_url)
    experiment = client.get_experiment_by_name(story.name)
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    run = runs[0]
    assert run.data.tags["rewarm.dev/run-uid"] == story.run["metadata"]["uid"]
    assert run.info.run_id == story.run["status"]["tracking"]["runId"]
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert losses[-1].value < losses[0].value
    champion = client.get_model_version_by_alias(story.name, "champion")
    assert champion.version == story.run["status"]["tracking"]["modelVersion"]
    assert story.run["status"]["promotion"]["promoted"] is True


def test_the_bucket_holds_checkpoint_and_report(world, story):
    prefix = f"{NAMESPACE}/{story.name}/"
    assert story.run["status"]["checkpoint"]["uri"].startswith(f"s3://checkpoints/{prefix}step-")
    keys = [key.removeprefix(prefix) for key in world.s3.keys("checkpoints", prefix)]
    newest = story.run["status"]["checkpoint"]["uri"].removeprefix(f"s3://checkpoints/{prefix}").rstrip("/")
    assert any(key.startswith(f"{newest}/") and key.endswith(".safetensors") for key in keys)
    assert {"run/report.json", "run/report.html", "run/model-card.md", "run/snapshot.json", "run/pins.json"} <= set(
        keys
    )
    report = json.loads(world.s3.read("checkpoints", f"{prefix}run/report.json"))
    assert set(report["sets"]) == {"code", "general"}


def test_helm_test_makes_its_calls(world, story):
    world.helm("test", "rewarm", "--namespace", SYSTEM, "--timeout", "180s")


def test_deleting_the_run_leaves_what_it_made(world, story):
    """The last test of this run: Jobs go; checkpoints and registered models stay."""
    before = world.s3.keys("checkpoints", f"{NAMESPACE}/{story.name}/")
    world.cluster.kubectl("delete", "crun", story.name, "-n", NAMESPACE, "--timeout=60s")
    world.cluster.api.wait(f"{GROUP}/{story.name}", lambda found: found is None)
    for name in (f"{story.name}-a1", f"{story.name}-prepare"):
        world.cluster.api.wait(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}", lambda found: found is None)
    assert world.s3.keys("checkpoints", f"{NAMESPACE}/{story.name}/") == before
    client = mlflow.MlflowClient(tracking_uri=world.mlflow_url, registry_uri=world.mlflow_url)
    assert client.get_model_version_by_alias(story.name, "champion")

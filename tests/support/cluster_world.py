"""What end-to-end tests see: a cluster with the chart installed, real servers beside it, and runs in a namespace."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_world import MANIFEST
from services import S3, Prometheus

from rewarm_cluster import binaries
from rewarm_cluster.client import Client

ROOT = Path(__file__).parents[2]
NAMESPACE, SYSTEM, RELEASE = "team", "rewarm-system", "rewarm"
GROUP = f"/apis/rewarm.dev/v1alpha1/namespaces/{NAMESPACE}/continualruns"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
CREDENTIALS = "storage"
Json = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """What the chart and the runs are told to use."""

    operator: str
    trainer: str


@dataclass
class ClusterWorld:
    """The cluster, the servers beside it and the release on it."""

    cluster: Client
    s3: S3
    mlflow_url: str
    prometheus: Prometheus
    images: Images
    state: Path

    # -- runs ----------------------------------------------------------------------------------------------------------

    def manifest(self, name: str, *, steps: int, **changes: Any) -> Json:
        """A run on two nodes without GPUs over real text; `changes` as in `World.manifest`."""
        document: Json = copy.deepcopy(MANIFEST)
        document["metadata"] = {"name": name, "namespace": NAMESPACE}
        spec = document["spec"]
        spec["corpus"]["sources"][0]["uri"] = "s3://corpora/code.jsonl"
        spec["replay"]["sources"][0]["uri"] = "s3://corpora/general.jsonl"
        spec["budget"] = {"tokens": steps * spec["training"]["globalBatchTokens"]}
        spec["gates"] = {"maxForgetting": 5.0, "minGain": -5.0}
        spec["tracking"] = {"registeredModel": name, "promoteAlias": "champion"}
        resources = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}
        environment = [{"name": "OMP_NUM_THREADS", "value": "1"}]
        spec["compute"] = {
            "nodes": 2,
            "gpusPerNode": 0,
            "terminationGracePeriodSeconds": 60,
            "podTemplate": {"resources": resources, "env": environment},
        }
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = spec
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        return document

    def submit(self, document: Json) -> str:
        """`kubectl apply` as a user does it: client side, with strict validation."""
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(document))
        return str(document["metadata"]["name"])

    def run(self, name: str) -> Json:
        return self.cluster.api.get(f"{GROUP}/{name}")

    def wait(self, name: str, condition: Callable[[Json], bool], within_s: float = 240) -> Json:
        """The run once the condition holds; a run that ended before as Failed is told at once."""

        def good(run: Json | None) -> bool:
            assert run is not None, f"run {name} is gone"
            if condition(run):
                return True
            assert status_of(run, "Succeeded") != "False", f"run {name} failed"
            return False

        try:
            found = self.cluster.api.wait(f"{GROUP}/{name}", good, within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story(name)}") from None
        assert found is not None
        return found

    def wait_training(self, name: str, *, attempt: int = 1, step: int = 1, within_s: float = 240) -> Json:
        """The run once this attempt has trained to this step."""
        return self.wait(name, lambda run: _attempt(run) >= attempt and _step(run, attempt) >= step, within_s)

    def wait_succeeded(self, name: str, within_s: float = 420) -> Json:
        """The run once it has its verdict and MLflow has all of it: the verdict does not wait for MLflow."""
        done = ("Succeeded", "Registered")
        return self.wait(name, lambda run: all(status_of(run, kind) == "True" for kind in done), within_s)

    def pods(self, name: str, attempt: int | None = None) -> list[Json]:
        """Trainer pods of a run, by rank."""
        selector = f"rewarm.dev/run={name},rewarm.dev/role=trainer"
        selector += f",rewarm.dev/attempt={attempt}" if attempt is not None else ""
        query = selector.replace("=", "%3D").replace(",", "%2C").replace("/", "%2F")
        pods = self.cluster.api.get(f"{PODS}?labelSelector={query}")["items"]
        return sorted(pods, key=lambda pod: pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])

    def jobs(self, name: str) -> list[str]:
        items = self.cluster.api.get(f"{JOBS}?labelSelector=rewarm.dev%2Frun%3D{name}")["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def events(self, name: str) -> list[str]:
        """Reasons of the Events on a run, in their order."""
        items = self.cluster.api.get(f"{EVENTS}?fieldSelector=involvedObject.name%3D{name}")["items"]
        items.sort(key=lambda item: item.get("eventTime") or item.get("firstTimestamp") or "")
        return [item["reason"] for item in items]

    def story(self, name: str) -> str:
        """Everything that explains a failed test: the run, its Events, its pods, the last lines of their logs."""
        parts = [json.dumps(self.run(name).get("status"), indent=1)]
        for command in (
            ["get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"],
            ["get", "jobs,pods", "-n", NAMESPACE, "-o", "wide"],
            ["logs", "-n", NAMESPACE, "-l", f"rewarm.dev/run={name}", "--tail=25", "--prefix", "--ignore-errors"],
            ["logs", "-n", SYSTEM, f"deployment/{RELEASE}", "--tail=40"],
        ):
            try:
                parts.append(f"$ kubectl {' '.join(command)}\n{self.cluster.kubectl(*command)}")
            except AssertionError as error:
                parts.append(str(error))
        return "\n".join(parts)

    # -- the release ---------------------------------------------------------------------------------------------------

    def helm(self, *arguments: str) -> str:
        import subprocess

        command = [str(binaries.find("helm")), "--kubeconfig", str(self.cluster.kubeconfig), *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, f"helm {' '.join(arguments)}: {result.stderr}{result.stdout}"
        return result.stdout

    def values(self) -> Json:
        """What the release is installed with."""

        def image(reference: str) -> Json:
            if "@" in reference:
                repository, _, digest = reference.partition("@")
                return {"repository": repository, "digest": digest}
            repository, _, tag = reference.rpartition(":")
            return {"repository": repository, "tag": tag}

        return {
            "image": image(self.images.operator),
            "trainer": {"image": image(self.images.trainer), "prepare": {"cpu": "100m", "memory": "512Mi"}},
            "watch": {"namespaces": [NAMESPACE]},
            "checkpoints": {"uri": "s3://checkpoints/"},
            "cache": {"uri": "s3://cache/"},
            "tracking": {"uri": self.mlflow_url},
            "credentials": [CREDENTIALS],
            "timings": {"statusIntervalSeconds": 2},
        }

    def install(self, *options: str) -> None:
        """`helm upgrade --install` with a wait until the operator is ready."""
        file = self.state / "values.json"
        file.write_text(json.dumps(self.values()))
        chart = str(ROOT / "charts/rewarm")
        arguments = ["--namespace", SYSTEM, "-f", str(file), "--wait", "--timeout", "180s", *options]
        self.helm("upgrade", "--install", RELEASE, chart, *arguments)


def condition(run: Json, kind: str) -> Json:
    """One condition of a run; empty before the operator's first visit."""
    conditions = run.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def status_of(run: Json, kind: str) -> str:
    return str(condition(run, kind).get("status", "Unknown"))


def causes(run: Json) -> list[str]:
    """Why each attempt ended, the first attempt first; empty text for one that goes on."""
    attempts = run.get("status", {}).get("attempts") or []
    return [item.get("cause") or "" for item in sorted(attempts, key=lambda item: item["number"])]


def _attempt(run: Json) -> int:
    return int((run.get("status", {}).get("counts") or {}).get("attempts", 0))


def _step(run: Json, attempt: int) -> int:
    """Step of the newest attempt; while that is an older one, 0."""
    attempts = run.get("status", {}).get("attempts") or []
    newest = max((item["number"] for item in attempts), default=0)
    status = run["status"]
    training = (status.get("phase") or {}).get("activity", "").lower() == "training"
    return int((status.get("progress") or {}).get("step", 0)) if newest >= attempt and training else 0

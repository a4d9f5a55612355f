"""Everything that the operator posts and writes, as a real API server takes it: strict, and under Pod Security."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from operator_world import MANIFEST, World
from real_cluster import needs_control_plane
from study_world import StudyWorld

from rewarm_cluster.api import Api
from rewarm_cluster.control_plane import ControlPlane
from rewarm_operator import objects
from rewarm_operator.actions import Create
from rewarm_operator.starting import pod_facts
from rewarm_operator.visit import Visit

pytestmark = [pytest.mark.slow, needs_control_plane("api")]

STRICT = "?dryRun=All&fieldValidation=Strict"
PLACES = {
    "ConfigMap": "/api/v1/namespaces/research/configmaps",
    "Service": "/api/v1/namespaces/research/services",
    "Job": "/apis/batch/v1/namespaces/research/jobs",
}
TEMPLATE = {
    "annotations": {"team": "nlp"},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "volumes": [{"name": "extra", "emptyDir": {}}],
    "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainers",
    "topology": {"preferred": "topology.kubernetes.io/zone"},
}
WORLDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": {
        "compute": {
            "nodes": 2, "gpusPerNode": 8, "queue": "gpu-queue", "workloadPriorityClass": "high",
            "podTemplate": TEMPLATE,
        },
        "training__globalBatchTokens": 8192,
        "checkpoints": {"uri": "claim://runs/llama/"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """An API server with a namespace that enforces Pod Security `restricted`."""
    with ControlPlane("api") as cluster:
        cluster.namespace("research", restricted=True)
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainers"}}
        cluster.api.call("POST", "/api/v1/namespaces/research/serviceaccounts", body)
        yield cluster.api


def bodies(changes: dict[str, Any]) -> list[dict[str, Any]]:
    world = World(MANIFEST, **changes)
    world.settle()
    facts = [pod_facts(Visit(world.observed(), world.settings), number) for number in (0, 1)]
    posted = [objects.config_map(world.run, {}), objects.service(world.run)]
    jobs = [objects.prepare_job(facts[0], {"tries": 1}), objects.attempt_job(facts[1])]
    return [*posted, *jobs, fit_job(changes.get("compute", {"gpusPerNode": 0}))]


def fit_job(compute: dict[str, Any]) -> dict[str, Any]:
    """Of a study whose runs are finished."""
    places = '{uri: "claim://runs/studies/"}'
    world = StudyWorld(
        spec__template__spec__compute=json.dumps(compute),
        spec__template__spec__checkpoints=places,
    )
    world.settle()
    world.finish_runs()
    del world.cluster.objects["Job", "research", "pubmed-mix-fit"]
    world.restart()
    (body,) = [action.body for action in world.decide().actions if isinstance(action, Create)]
    return dict(body)


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_posted_is_taken_word_for_word(api, name):
    for body in bodies(WORLDS[name]):
        status, answer = api.call("POST", PLACES[body["kind"]] + STRICT, body)
        assert status == 201, f"{body['kind']}/{body['metadata']['name']}: {answer}"
        assert subset(body, answer) == [], "nothing was changed or dropped on the way in"


@pytest.mark.parametrize("name", WORLDS)
def test_pods_pass_pod_security_restricted(api, name):
    for job in bodies(WORLDS[name])[2:]:
        template = job["spec"]["template"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": job["metadata"]["name"]},
            "spec": template["spec"],
        }
        status, answer = api.call("POST", "/api/v1/namespaces/research/pods" + STRICT, body)
        assert status == 201, answer


def test_what_is_not_restricted_is_refused_there(api):
    """So that what passes, passes because of what it is."""
    (job,) = (body for body in bodies({}) if body["metadata"]["name"].endswith("-a1"))
    template = job["spec"]["template"]
    for container in template["spec"]["containers"]:
        container["securityContext"]["allowPrivilegeEscalation"] = True
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "free"}, "spec": template["spec"]}
    status, answer = api.call("POST", "/api/v1/namespaces/research/pods" + STRICT, body)
    assert status == 403
    assert "violates PodSecurity" in answer["message"]


def subset(asked: Any, got: Any, path: str = "") -> list[str]:
    """Paths at which the server has something else than what was asked for."""
    if isinstance(asked, dict):
        return [p for key, value in asked.items() for p in subset(value, (got or {}).get(key), f"{path}.{key}")]
    if isinstance(asked, list) and isinstance(got, list) and len(asked) == len(got):
        return [p for i, (a, g) in enumerate(zip(asked, got, strict=True)) for p in subset(a, g, f"{path}[{i}]")]
    return [] if str(asked) == str(got) or (asked in ({}, []) and got is None) else [f"{path}: {asked!r}, {got!r}"]

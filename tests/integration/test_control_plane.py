"""What other tests stand on: rights hold, Jobs run by real rules, a restart keeps everything, nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from real_cluster import needs_control_plane

from rewarm_cluster.api import Api
from rewarm_cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

READ_JOBS = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]}
POD = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "localhost/none:1"}]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with ControlPlane("jobs") as cluster:
        yield cluster


def conditions(found: dict[str, Any] | None) -> set[str]:
    return {item["type"] for item in (found or {}).get("status", {}).get("conditions", []) if item["status"] == "True"}


def test_a_service_account_has_exactly_its_rights(cluster):
    namespace = cluster.namespace("rights")
    kubeconfig = cluster.service_account(namespace, "operator", rules=[READ_JOBS])
    assert cluster.kubectl("get", "jobs", "-o", "name", kubeconfig=kubeconfig) == ""
    with pytest.raises(AssertionError, match='cannot list resource "pods"'):
        cluster.kubectl("get", "pods", kubeconfig=kubeconfig)
    with pytest.raises(AssertionError, match='cannot list resource "jobs"'):
        cluster.kubectl("get", "jobs", "-n", "default", kubeconfig=kubeconfig)


def test_a_token_is_good_for_its_audience_only(cluster):
    namespace = cluster.namespace("tokens")
    token = cluster.token(namespace, "default", audience="rewarm.dev/a/b/c")
    assert Api(cluster.url, cluster.authority, token=token).call("GET", "/version")[0] == 401
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    review["spec"] = {"token": token, "audiences": ["rewarm.dev/a/b/c"]}
    status, answer = cluster.api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
    assert (status, answer["status"]["authenticated"]) == (201, True)


def test_jobs_follow_their_pods_and_owners_cascade_over_a_restart(cluster):
    namespace = cluster.namespace("jobs")
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0}
    job = {"metadata": {"name": "pair"}, "spec": spec | {"template": {"spec": POD}}}
    assert cluster.api.call("POST", path, job)[0] == 201
    cluster.api.wait(f"{path}/pair", lambda found: (found or {}).get("status", {}).get("active") == 2)
    cluster.restart_apiserver()
    pods = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    for pod in pods:
        status = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
        assert cluster.api.call("PATCH", status, {"status": {"phase": "Succeeded"}})[0] == 200
    cluster.api.wait(f"{path}/pair", lambda found: "Complete" in conditions(found))
    assert cluster.api.call("DELETE", f"{path}/pair?propagationPolicy=Background")[0] == 200
    for pod in pods:
        cluster.api.wait(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}", lambda found: found is None)


def test_two_at_once_and_nothing_left():
    with ControlPlane("api") as first, ControlPlane("api") as second:
        first.namespace("only-here")
        assert second.api.call("GET", "/api/v1/namespaces/only-here")[0] == 404
        pids = [cluster.processes.pid(name) for cluster in (first, second) for name in cluster.processes.names()]
        assert len(pids) == 4
    assert not first.state.exists()
    assert not second.state.exists()
    assert not any(
        cluster.processes.running(name) for cluster in (first, second) for name in ("etcd", "kube-apiserver")
    )

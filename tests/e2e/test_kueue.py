"""A queued run under Kueue's real controller, installed by its own chart: it waits, says for what, and then trains."""

from __future__ import annotations

import pytest
from cluster_world import NAMESPACE, ClusterWorld, condition, status_of

from rewarm_cluster import binaries
from rewarm_cluster.node import Cluster

IMAGE = "localhost/kueue:0.15.2"
QUEUE = "training"


@pytest.fixture(scope="module")
def quota(world: ClusterWorld) -> str:
    """Kueue with one queue whose quota is none; the path of its ClusterQueue."""
    if isinstance(world.cluster, Cluster):
        world.cluster.add_program(IMAGE, binaries.find("kueue"), "manager")
        chart = binaries.module_folder("kueue", "sigs.k8s.io/kueue") / "charts/kueue"
        values = "controllerManager.manager.image"
        image = f"{values}.repository=localhost/kueue,{values}.tag=0.15.2,{values}.pullPolicy=IfNotPresent"
        resources = "controllerManager.manager.resources.requests.cpu=50m"
        arguments = ["--namespace", "kueue-system", "--create-namespace", "--wait", "--timeout", "180s"]
        world.helm("upgrade", "--install", "kueue", str(chart), *arguments, "--set", f"{image},{resources}")
    api = "kueue.x-k8s.io/v1beta2"
    covered = ["cpu", "memory"]
    flavor = {"name": "node", "resources": [{"name": name, "nominalQuota": "0"} for name in covered]}
    groups = [{"coveredResources": covered, "flavors": [flavor]}]
    world.cluster.apply(
        [
            {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": "node"}},
            {
                "apiVersion": api,
                "kind": "ClusterQueue",
                "metadata": {"name": "all"},
                "spec": {"namespaceSelector": {}, "resourceGroups": groups},
            },
            {
                "apiVersion": api,
                "kind": "LocalQueue",
                "metadata": {"name": QUEUE, "namespace": NAMESPACE},
                "spec": {"clusterQueue": "all"},
            },
        ]
    )
    return f"/apis/{api}/clusterqueues/all"


def test_a_queued_run_waits_for_quota_and_says_so(world: ClusterWorld, quota: str):
    name = world.submit(world.manifest("queued", steps=40, compute__queue=QUEUE))
    waiting = world.wait(name, lambda run: status_of(run, "Admitted") == "False")
    assert QUEUE in condition(waiting, "Admitted")["message"] or "quota" in condition(waiting, "Admitted")["message"]
    assert not [pod for pod in world.pods(name) if pod["status"]["phase"] == "Running"]
    resources = [{"name": "cpu", "nominalQuota": "4"}, {"name": "memory", "nominalQuota": "16Gi"}]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "node", "resources": resources}]}]
    assert world.cluster.api.call("PATCH", quota, {"spec": {"resourceGroups": groups}})[0] == 200
    ended = world.wait_succeeded(name)
    assert status_of(ended, "Admitted") == "True"

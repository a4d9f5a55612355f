"""The peer in Python: a plain kopf operator (plain_kopf.py) under the steps that ours is measured with.

Runs of a namespace of its own, on the same control plane; ours is not running. The official client and kopf at their
newest pinned versions.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from world import Process, Watched, World

NAMESPACE = "plain"
RUNS = f"/apis/rewarm.dev/v1alpha1/namespaces/{NAMESPACE}/continualruns"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
USER = f"system:serviceaccount:{NAMESPACE}:plain"
HANDLERS = Path(__file__).with_name("plain_kopf.py")


class Plain(Process):
    """The peer as its users start it."""

    def __init__(self, world: World, kubeconfig: Path) -> None:
        kopf = str(Path(sys.executable).with_name("kopf"))
        command = [kopf, "run", "--quiet", "--standalone", "--namespace", NAMESPACE, str(HANDLERS)]
        super().__init__(world, "peer-plain", command, {"KUBECONFIG": str(kubeconfig)})


def account(world: World) -> Path:
    """A kubeconfig of its own, so that the audit log knows it; with all rights."""
    world.cluster.namespace(NAMESPACE)
    subject = {"kind": "ServiceAccount", "name": "plain", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "roleRef": role}
    kind = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "plain", "namespace": NAMESPACE}}
    world.cluster.apply([kind, {**binding, "metadata": {"name": "plain"}, "subjects": [subject]}])
    return world.cluster.service_account(NAMESPACE, "plain")


def measure(
    world: World,
    count: int,
    manifest: Callable[[int], dict[str, Any]],
    *,
    is_preparation: Callable[[dict[str, Any]], bool],
    is_prepared: Callable[[dict[str, Any]], bool],
    is_attempt: Callable[[dict[str, Any]], bool],
    is_finished: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """Steps 1, 2, 3 and 5 of run.py."""
    if world.cluster.processes.running("kwok"):
        world.pods_stand_still()
    own = account(world)
    jobs, prepared, attempts = (Watched(world, JOBS, wanted) for wanted in (is_preparation, is_prepared, is_attempt))
    finished = Watched(world, RUNS, is_finished)
    before = world.audit_size()

    peer = Plain(world, own)
    peer.wait_until_idle(3)
    started = peer.cpu_seconds()
    began = time.monotonic()
    world.create(RUNS, (manifest(number) for number in range(count)))
    result: dict[str, Any] = {"prepare_jobs_seconds": jobs.wait(count, 900) - began}
    peer.wait_until_idle(3)
    cpu = peer.cpu_seconds() - started
    peer.stop()

    world.pods_run()
    prepared.wait(count, 600)
    world.pods_stand_still()
    began = time.monotonic()
    peer = Plain(world, own)
    result["attempt_jobs_seconds"] = attempts.wait(count, 900) - began
    peer.wait_until_idle(3)
    result["cpu"] = cpu + peer.cpu_seconds() - started
    writes = Counter(what for what, _ in world.records(USER, before) if not what.endswith("leases"))
    result["writes"] = dict(writes)

    pods = Watched(world, PODS, lambda _: True, labelSelector="rewarm.dev/role=trainer")
    pods.wait(count, 300)
    first_cpu, first_events = peer.cpu_seconds(), pods.events
    world.pods_run()
    finished.wait(count, 900)
    peer.wait_until_idle(5)
    result["pod_events"], result["pod_cpu"] = pods.events - first_events, peer.cpu_seconds() - first_cpu
    result["megabytes"] = peer.resident_megabytes()
    peer.stop()

    before = world.audit_size()
    peer = Plain(world, own)
    peer.wait_until_idle(15)
    again = Counter(what for what, _ in world.records(USER, before) if not what.endswith("leases"))
    result |= {"restart_writes": dict(again), "restart_cpu": peer.cpu_seconds()}
    result["restart_megabytes"] = peer.resident_megabytes()
    peer.stop()
    return result

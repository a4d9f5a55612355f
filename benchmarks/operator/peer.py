"""The peer: Kubeflow's training-operator 1.8.1 at its defaults, on the control plane of the benchmark.

It waits for its webhook's certificate: a webhook configuration and an empty secret are made for it, and what it writes
into the secret is put where a pod would have it mounted. The configuration is taken away before jobs come.
"""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any

from world import Process, Watched, World

from rewarm_cluster.binaries import find, module_folder

NAMESPACE = "kubeflow"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
WEBHOOK = "validator.training-operator.kubeflow.org"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def job(number: int) -> dict[str, Any]:
    """Two replicas of one container, as ours: one made-up image, no node needed."""
    pod = {"containers": [{"name": "pytorch", "image": "localhost/none:1", "command": ["none"]}]}
    replicas = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": pod}}
    spec = {"pytorchReplicaSpecs": {"Master": replicas, "Worker": replicas}}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": f"job-{number}"}, "spec": spec}


def mount_certificate(world: World) -> None:
    """The folder is fixed in the peer's code."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/training-operator-webhook-cert"
    secret = world.cluster.api.wait(path, lambda found: bool(((found or {}).get("data") or {}).get("tls.crt")))
    folder = Path("/tmp/k8s-webhook-server/serving-certs")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (secret or {})["data"].items():
        (folder / name).write_bytes(base64.b64decode(data))


def measure(world: World, count: int) -> dict[str, Any]:
    """Until all pods of `count` jobs exist; pods stand still."""
    cluster = world.cluster
    if cluster.processes.running("kwok"):
        world.pods_stand_still()
    cluster.namespace(NAMESPACE)
    folder = module_folder("training-operator", "github.com/kubeflow/training-operator") / "manifests/base/crds"
    for path in sorted(folder.glob("kubeflow.org_*.yaml")):
        cluster.kubectl("create", "-f", "-", input=path.read_text())
    while cluster.api.call("GET", JOBS)[0] != 200:
        time.sleep(0.1)
    hook = {
        "name": WEBHOOK, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
        "clientConfig": {"service": {"name": "training-operator", "namespace": NAMESPACE, "path": "/"}},
    }  # fmt: skip
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "training-operator-webhook-cert"}}
    secret["metadata"]["namespace"] = NAMESPACE
    cluster.apply([{**kind, "metadata": {"name": WEBHOOK}, "webhooks": [hook]}, secret])

    command = [str(find("training-operator")), "--enable-scheme=pytorchjob", "--metrics-bind-address=127.0.0.1:0"]
    command += ["--health-probe-bind-address=127.0.0.1:0", "--webhook-server-port=9443"]
    pods = Watched(world, f"/api/v1/namespaces/{NAMESPACE}/pods", lambda _: True)
    peer = Process(world, "peer", command, {"KUBECONFIG": str(cluster.kubeconfig), "MY_POD_NAMESPACE": NAMESPACE})
    mount_certificate(world)
    probe = {**job(count), "metadata": {"name": "first"}}
    cluster.api.call("POST", JOBS, probe)
    pods.wait(2, 120)  # it works: only now is anything measured
    cluster.api.call("DELETE", f"{WEBHOOKS}/{WEBHOOK}")
    first_cpu, began = peer.cpu_seconds(), time.monotonic()
    world.create(JOBS, (job(number) for number in range(count)))
    seconds = pods.wait(2 * count + 2, 900) - began
    result = {"pods": 2 * count, "seconds": seconds, "cpu": peer.cpu_seconds() - first_cpu}
    result["megabytes"] = peer.resident_megabytes()
    peer.stop()
    shutil.rmtree("/tmp/k8s-webhook-server", ignore_errors=True)
    return result

"""A plain kopf operator for the same load, as kopf's own tutorial would have it: handlers that do as they are told.

Change handlers on the run and on its Jobs and an event handler on its pods, each with a call of the official client;
kopf keeps its annotations and finalizer. It makes what ours makes for a run (Service, ConfigMap, prepare Job, attempt
Job) and writes the run's status. It has no lease, no attempts, no causes, no validation: only the load is the same.

    KUBECONFIG=... kopf run --namespace NS plain_kopf.py
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import kopf
import kubernetes

GROUP = ("rewarm.dev", "v1alpha1", "continualruns")
RUN = "rewarm.dev/run"
ROLE = "rewarm.dev/role"
CLIENT: list[kubernetes.client.ApiClient] = []


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    kubernetes.config.load_kube_config()
    # One for all handlers: a client of its own in each would open a connection at every call.
    CLIENT.append(kubernetes.client.ApiClient())
    # More than kopf's default of threads; the client's own pool follows.
    settings.execution.max_workers = 16
    settings.posting.enabled = False


def job(run: str, name: str, role: str) -> dict[str, Any]:
    container = {"name": "trainer", "image": "localhost/rewarm-trainer:dev", "command": ["none"]}
    labels = {RUN: run, ROLE: role}
    pod = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"backoffLimit": 0, "template": pod}}


def status(namespace: str, name: str, **values: Any) -> None:
    kubernetes.client.CustomObjectsApi(CLIENT[0]).patch_namespaced_custom_object_status(
        GROUP[0], GROUP[1], namespace, GROUP[2], name, {"status": values}
    )


@kopf.on.create(*GROUP)
def created(spec: kopf.Spec, name: str, namespace: str, **_: Any) -> None:
    service = {"metadata": {"name": name}, "spec": {"clusterIP": "None", "selector": {RUN: name}}}
    config = {"metadata": {"name": name}, "data": {"snapshot.json": str(dict(spec))}}
    children = [service, config, job(name, f"{name}-prepare", "prepare")]
    kopf.adopt(children)
    core, batch = kubernetes.client.CoreV1Api(CLIENT[0]), kubernetes.client.BatchV1Api(CLIENT[0])
    core.create_namespaced_service(namespace, children[0])
    core.create_namespaced_config_map(namespace, children[1])
    batch.create_namespaced_job(namespace, children[2])
    status(namespace, name, summary="Preparing")


@kopf.on.field("batch", "v1", "jobs", field="status.succeeded", new=1, labels={ROLE: "prepare"})
def prepared(labels: kopf.Labels, namespace: str, meta: kopf.Meta, **_: Any) -> None:
    run = labels[RUN]
    attempt = job(run, f"{run}-a1", "trainer")
    attempt["metadata"]["ownerReferences"] = meta["ownerReferences"]
    kubernetes.client.BatchV1Api(CLIENT[0]).create_namespaced_job(namespace, attempt)
    status(namespace, run, summary="Starting")


@kopf.on.event("", "v1", "pods", labels={ROLE: "trainer"})
def pod_changed(labels: kopf.Labels, namespace: str, status: kopf.Status, memo: kopf.Memo, **_: Any) -> None:
    memo["phase"] = status.get("phase")


@kopf.on.field("batch", "v1", "jobs", field="status.succeeded", new=1, labels={ROLE: "trainer"})
def ended(labels: kopf.Labels, namespace: str, **_: Any) -> None:
    said = {"type": "Succeeded", "status": "True", "reason": "Ended", "message": "its Job succeeded"}
    moment = {"lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    status(namespace, labels[RUN], summary="Succeeded", conditions=[{**said, **moment}])

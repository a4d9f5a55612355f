"""What is kept of an object in memory: what views read, and no more. Pure.

A pod as the API server sends it takes 30 KB of Python objects, and five are made for one attempt of five nodes; trimmed
it takes 3 KB. Trimming what is trimmed changes nothing. The run itself keeps everything but managedFields and the copy
of itself that kubectl apply leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]

_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers",
)  # fmt: skip
_POD_SPEC = ("nodeName", "terminationGracePeriodSeconds", "schedulingGates", "priorityClassName")
_POD_STATUS = (
    "phase", "reason", "message", "startTime", "conditions", "initContainerStatuses", "containerStatuses",
)  # fmt: skip
_CONTAINER = ("name", "state", "lastState", "restartCount", "ready", "exitCode", "image")
# Long, and others' business: the trainer reads the one in the pod, kubectl the other.
_HEAVY_ANNOTATIONS = (
    "rewarm.dev/progress-ca", "rewarm.dev/study-manifest", "kubectl.kubernetes.io/last-applied-configuration",
)  # fmt: skip


def run(item: Json) -> Json:
    kept = _without_heavy_annotations({**item["metadata"]})
    kept.pop("managedFields", None)
    return {**item, "metadata": kept}


def pod(item: Json) -> Json:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    kept = _pick(status, _POD_STATUS)
    for name in ("initContainerStatuses", "containerStatuses"):
        if name in kept:
            kept[name] = [_pick(container, _CONTAINER) for container in kept[name]]
    containers = [_pick(each, ("name", "image")) for each in spec.get("containers") or ()]
    return {
        "metadata": _metadata(item),
        "spec": {**_pick(spec, _POD_SPEC), "containers": containers},
        "status": kept,
    }


def job(item: Json) -> Json:
    spec = {name: value for name, value in (item.get("spec") or {}).items() if name != "template"}
    return {"metadata": _metadata(item), "spec": spec, "status": item.get("status") or {}}


def config_map(item: Json) -> Json:
    return {"metadata": _metadata(item), "data": item.get("data") or {}}


def service(item: Json) -> Json:
    return {"metadata": _metadata(item), "spec": _pick(item.get("spec") or {}, ("clusterIP", "ports", "selector"))}


def workload(item: Json) -> Json:
    spec = _pick(item.get("spec") or {}, ("queueName", "active", "priority", "priorityClassName"))
    return {"metadata": _metadata(item), "spec": spec, "status": item.get("status") or {}}


def identity(item: Json) -> Json:
    """Which object it is, and in which version."""
    return {"metadata": _pick(item["metadata"], ("name", "namespace", "uid", "resourceVersion"))}


TRIMMERS: Mapping[str, Callable[[Json], Json]] = {
    "ContinualRun": run,
    "MixtureStudy": run,
    "Pod": pod,
    "Job": job,
    "ConfigMap": config_map,
    "Service": service,
    "Workload": workload,
}


def _metadata(item: Json) -> Json:
    return _without_heavy_annotations(_pick(item["metadata"], _METADATA))


def _without_heavy_annotations(kept: Json) -> Json:
    annotations = kept.get("annotations")
    if annotations and any(name in annotations for name in _HEAVY_ANNOTATIONS):
        kept["annotations"] = {name: text for name, text in annotations.items() if name not in _HEAVY_ANNOTATIONS}
    return kept


def _pick(source: Mapping[str, Any], names: tuple[str, ...]) -> Json:
    return {name: source[name] for name in names if name in source}

"""The kinds of objects that the operator touches, and where the API server serves them. Names only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RUN_LABEL = "rewarm.dev/run"
UID_LABEL = "rewarm.dev/run-uid"
"""Uid of the run; on the fit Job of a study: of the study."""
STUDY_LABEL = "rewarm.dev/study"
ATTEMPT_LABEL = "rewarm.dev/attempt"
ROLE_LABEL = "rewarm.dev/role"
FINALIZER = "rewarm.dev/run"


@dataclass(frozen=True)
class Resource:
    """One kind in one version."""

    kind: str
    version: str
    """`group/version`, or `v1`."""
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Of the collection (no name), the object, or its subresource; namespace None: all namespaces."""
        root = "api" if "/" not in self.version else "apis"
        parts = ["", root, self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


RUN = Resource("ContinualRun", "rewarm.dev/v1alpha1", "continualruns")
STUDY = Resource("MixtureStudy", "rewarm.dev/v1alpha1", "mixturestudies")
JOB = Resource("Job", "batch/v1", "jobs")
POD = Resource("Pod", "v1", "pods")
CONFIG_MAP = Resource("ConfigMap", "v1", "configmaps")
SERVICE = Resource("Service", "v1", "services")
EVENT = Resource("Event", "v1", "events")
LEASE = Resource("Lease", "coordination.k8s.io/v1", "leases")
TOKEN_REVIEW = Resource("TokenReview", "authentication.k8s.io/v1", "tokenreviews")

KUEUE_GROUP = "kueue.x-k8s.io"
CHILDREN = (JOB, POD, CONFIG_MAP, SERVICE)
CREATED = {resource.kind: resource for resource in (JOB, CONFIG_MAP, SERVICE, RUN)}
PARENTS = {resource.kind: resource for resource in (RUN, STUDY)}


def workload(version: str) -> Resource:
    """Kueue's Workload in the version that this cluster serves."""
    return Resource("Workload", f"{KUEUE_GROUP}/{version}", "workloads")


def owner_uids(item: Mapping[str, Any]) -> set[str]:
    """Uids of everything that owns an object."""
    return {str(owner.get("uid")) for owner in item["metadata"].get("ownerReferences") or ()}


def revision(item: Mapping[str, Any]) -> int:
    """The object's resourceVersion as the number that it is (etcd's revision), for saying which of two is newer."""
    text = str(item.get("metadata", {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0

"""Reads Jobs and Pods: who ended, how and when, and what keeps a pod from running. Changes nothing, decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from rewarm_api.messages import one_line
from rewarm_api.reported import Termination
from rewarm_operator import moments
from rewarm_operator.names import ATTEMPT_LABEL, CONTAINER, INDEX_ANNOTATION
from rewarm_operator.observed import Object

TERMINAL_PHASES = ("Succeeded", "Failed")
_MISSING = re.compile(r'(secret|configmap|persistentvolumeclaim|serviceaccount) "?([^" ]+)"? not found')
_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_HARMLESS_WAITS = ("ContainerCreating", "PodInitializing", "")


def condition(item: Object, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type, if it is True."""
    for each in (item.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == "True":
            found: Mapping[str, Any] = each
            return found
    return None


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminal(pod: Object) -> bool:
    return phase(pod) in TERMINAL_PHASES


def index(pod: Object) -> int:
    """The rank of the pod's node; 0 for pods without one."""
    text = str((pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION, "0"))
    return int(text) if text.isdecimal() else 0


def owned_by(job: Object, pods: Iterable[Object]) -> tuple[Object, ...]:
    """The pods of a Job, one for each rank (the newest: Kueue runs an attempt's pods again), in order of rank."""
    uid = job["metadata"]["uid"]
    mine = [
        pod for pod in pods if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences") or ())
    ]
    mine.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    newest = {index(pod): pod for pod in mine}
    return tuple(newest[rank] for rank in sorted(newest))


def of_attempt(number: int, pods: Iterable[Object]) -> list[Object]:
    """The pods that carry an attempt's number, in order of rank, also when their Job is gone."""
    mine = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(ATTEMPT_LABEL) == str(number)]
    return sorted(mine, key=index)


def _container(pod: Object) -> Mapping[str, Any]:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            found: Mapping[str, Any] = status
            return found
    return {}


def running_since(pod: Object) -> datetime | None:
    """When the trainer's container started, while it runs."""
    state = _container(pod).get("state") or {}
    return moments.parse((state.get("running") or {}).get("startedAt"))


class Ended(NamedTuple):
    """How the trainer's container of one rank ended."""

    rank: int
    code: int
    reason: str
    finished: datetime | None
    text: str
    was_deleted: bool
    """Somebody wanted the pod gone, before or after it ended."""

    @property
    def termination(self) -> Termination | None:
        return Termination.parse(self.text) if self.text else None


def ended(pod: Object) -> Ended | None:
    """None while the container runs, or when the pod never got one."""
    terminated = (_container(pod).get("state") or {}).get("terminated")
    if terminated is None:
        return None
    return Ended(
        index(pod),
        int(terminated.get("exitCode", 0)),
        str(terminated.get("reason") or ""),
        moments.parse(terminated.get("finishedAt")),
        str(terminated.get("message") or ""),
        "deletionTimestamp" in pod["metadata"],
    )


def succeeded(pod: Object) -> bool:
    return phase(pod) == "Succeeded"


def lost_at(pod: Object, margin: int) -> datetime | None:
    """When a pod that is being deleted counts as lost; None for one that is not, or has ended.

    `deletionTimestamp` already includes the grace period: it is when the pod should be gone.
    """
    deadline = moments.parse(pod["metadata"].get("deletionTimestamp"))
    if deadline is None or is_terminal(pod):
        return None
    return datetime.fromtimestamp(deadline.timestamp() + margin, deadline.tzinfo)


@dataclass(frozen=True)
class Waiting:
    """What keeps a pod from running. `needs_help`: it will not pass by itself."""

    reason: str
    message: str
    needs_help: bool


def waiting(pods: Iterable[Object]) -> Waiting | None:
    """The first thing that keeps one of these pods from running; None when nothing is known to."""
    for pod in pods:
        found = None if is_terminal(pod) else _container_wait(pod) or _schedule_wait(pod)
        if found is not None:
            return found
    return None


def _container_wait(pod: Object) -> Waiting | None:
    wait = (_container(pod).get("state") or {}).get("waiting") or {}
    reason, message = str(wait.get("reason") or ""), one_line(str(wait.get("message") or ""), 500)
    if reason in _HARMLESS_WAITS:
        return None
    if reason in _IMAGE_REASONS:
        # Kubelet flips between two reasons with growing texts: one steady sentence instead.
        image = _image(pod)
        return Waiting("ImagePullFailed", f'image "{image}" cannot be pulled: check its name and pull secrets', True)
    missing = _missing(message)
    if missing is not None:
        return missing
    return Waiting(reason, f"container {CONTAINER} of {pod['metadata']['name']}: {message or reason}", True)


def _image(pod: Object) -> str:
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            return str(container.get("image", ""))
    return str(_container(pod).get("image", ""))


def _missing(message: str) -> Waiting | None:
    found = _MISSING.search(message)
    if found is None:
        return None
    kind = {"secret": "Secret", "configmap": "ConfigMap", "serviceaccount": "ServiceAccount"}.get(found[1], "Claim")
    return Waiting(f"Missing{kind}", f'{found[1]} "{found[2]}" not found: create it, and the run goes on', True)


def _schedule_wait(pod: Object) -> Waiting | None:
    for each in (pod.get("status") or {}).get("conditions") or ():
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            message = one_line(str(each.get("message") or ""), 500)
            missing = _missing(message)
            if missing is not None:
                return missing
            return Waiting(str(each.get("reason") or "Unschedulable"), message or "no node was found yet", False)
    return None

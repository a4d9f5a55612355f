"""What a pod template may not hold: names and paths that are Rewarm's, and what breaks out of Pod Security."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING
from rewarm_api.rules import exactly_one

RESERVED_ENVIRONMENT = (
    r"^(REWARM_|KUBEFLOW_TRAINER_SERVER_|PET_|TORCHELASTIC_|TORCH_ELASTIC_)"
    r"|^(MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|GROUP_RANK|GROUP_WORLD_SIZE"
    r"|ROLE_NAME|ROLE_RANK|ROLE_WORLD_SIZE|JOB_COMPLETION_INDEX|HOME)$"
)
SWITCHES = (
    "REWARM_COMPILE",
    "REWARM_CHUNKED_LOSS",
    "REWARM_PLAIN_ATTENTION",
    "REWARM_READ_AHEAD",
    "REWARM_KEEP_FREED_MEMORY",
)
"""The reserved names that are a manifest's to set after all: switches of speed (docs/speed.md)."""
SWITCH_VALUES = ("on", "off", "auto")
LOADING_ENVIRONMENT = (
    r"^(LD_PRELOAD|LD_AUDIT|PATH|BASH_ENV|ENV"
    r"|PYTHON(PATH|HOME|STARTUP|USERBASE|EXECUTABLE|PLATLIBDIR|WARNINGS|BREAKPOINT|INSPECT|PYCACHEPREFIX))$"
)
"""What makes a program load other code than its image holds."""
CREDENTIAL_ENVIRONMENT = r"^AWS_"
"""Who pods are to a bucket, and which bucket that is."""
SECRET_ENVIRONMENT = r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY|API_?KEY|PRIVATE_KEY|CREDENTIALS?)$"
"""Names of variables whose value does not belong into a manifest."""
RESERVED_PATHS = r"^/(etc/rewarm|(var/)?run/rewarm|var/lib/rewarm|tmp|dev/shm|mnt/claims)(/|$)"
CLIMBING = r"(^|/)[.][.](/|$)"
RESERVED_ANNOTATIONS = ("rewarm.dev/", "kueue.x-k8s.io/")
GPU_RESOURCES = r"/gpu$|^nvidia[.]com/mig-"
VOLUME_KINDS = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip
"""What Pod Security `restricted` allows."""

_PATH = "spec.compute.podTemplate"


def pod_template_problems(spec: Any) -> Iterator[Problem]:
    """Problems of `compute.podTemplate`. Broken fields (None) are passed over."""
    template = spec.compute and spec.compute.pod_template
    if not template:
        return
    yield from _annotations(template.annotations or {})
    yield from _environment(_present(template.env, f"{_PATH}.env"))
    yield from _volumes(_present(template.volumes, f"{_PATH}.volumes"))
    yield from _mounts(template)
    if template.resources is not None:
        yield from _resources(template.resources, spec.compute.gpu_resource)
    secrets = ((path, secret.name) for path, secret in _present(template.image_pull_secrets, "imagePullSecrets"))
    yield from _repeated(((f"{_PATH}.{path}.name", name) for path, name in secrets), "a Secret that is not listed yet")
    if template.topology is not None:
        yield from exactly_one(f"{_PATH}.topology", template.topology, "required", "preferred")


def _present(items: list[Any] | None, path: str) -> list[tuple[str, Any]]:
    return [(f"{path}[{index}]", item) for index, item in enumerate(items or []) if item is not None]


def _repeated(entries: Iterable[tuple[str, str | None]], expected: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for path, name in entries:
        if name is not None and name in seen:
            yield Problem(path, f"{name}, which {seen[name]} has", expected, "remove one of them")
        elif name is not None:
            seen[name] = path


def _annotations(annotations: dict[str, str]) -> Iterator[Problem]:
    for key in annotations:
        if key.startswith(RESERVED_ANNOTATIONS):
            expected = "no annotations of rewarm.dev/ or kueue.x-k8s.io/: the operator sets them"
            yield Problem(f"{_PATH}.annotations", key, expected, f"remove {key}; use queue or topology for Kueue")


def _environment(entries: list[tuple[str, Any]]) -> Iterator[Problem]:
    for path, variable in entries:
        if variable.name is not None:
            yield from _name_of_variable(path, variable)
        yield from exactly_one(path, variable, "value", "value_from")
        if variable.value_from is not None:
            source = variable.value_from
            yield from exactly_one(f"{path}.valueFrom", source, *type(source).model_fields)
    names = ((f"{path}.name", variable.name) for path, variable in entries)
    yield from _repeated(names, "a name that no other variable has")


def _name_of_variable(path: str, variable: Any) -> Iterator[Problem]:
    name = variable.name
    if name in SWITCHES:
        if variable.value is not None and variable.value not in SWITCH_VALUES:
            yield Problem(f"{path}.value", variable.value, " | ".join(SWITCH_VALUES), "take one of these, quoted")
    elif re.search(RESERVED_ENVIRONMENT, name):
        expected = "a name that neither Rewarm nor torch's rendezvous sets"
        yield Problem(f"{path}.name", name, expected, "remove this variable: the operator sets it")
    elif re.search(LOADING_ENVIRONMENT, name):
        expected = "no variable that makes pods load other code than their image's"
        yield Problem(f"{path}.name", name, expected, "remove it; what it should load belongs into compute.image")
    elif re.search(CREDENTIAL_ENVIRONMENT, name):
        expected = "no AWS_ variable: pods are to a bucket who the secrets of spec.credentials say"
        yield Problem(f"{path}.name", name, expected, f"put {name} into a Secret that spec.credentials names")
    elif re.search(SECRET_ENVIRONMENT, name) and variable.value is not None:
        expected = f"no value of {name} in a manifest, where others read it"
        yield Problem(f"{path}.value", "a value", expected, "use valueFrom: {secretKeyRef: {name: ..., key: ...}}")


def _volumes(entries: list[tuple[str, Any]]) -> Iterator[Problem]:
    for path, volume in entries:
        if volume["name"].startswith("rewarm"):
            expected = "a name that does not begin with rewarm: those are the operator's"
            yield Problem(f"{path}.name", volume["name"], expected, "rename the volume and its mounts")
        kinds = [key for key in volume if key != "name"]
        if len(kinds) != 1 or kinds[0] not in VOLUME_KINDS:
            expected = f"exactly one of {' | '.join(VOLUME_KINDS)}, which Pod Security restricted allows"
            fix = "use one of these; other storage comes by a persistentVolumeClaim"
            yield Problem(path, " and ".join(kinds) or NOTHING, expected, fix)
        yield from _tokens(f"{path}.projected.sources", volume.get("projected"))
    names = ((f"{path}.name", volume["name"]) for path, volume in entries)
    yield from _repeated(names, "a name that no other volume has")


def _tokens(path: str, projected: Any) -> Iterator[Problem]:
    sources = projected.get("sources") if isinstance(projected, dict) else None
    for index, source in enumerate(sources if isinstance(sources, list) else []):
        # A pod certificate is as good as a token: it speaks for the service account.
        for kind in ("serviceAccountToken", "podCertificate"):
            if isinstance(source, dict) and kind in source:
                expected = "no service account token: pods of a run get none but Rewarm's own"
                yield Problem(f"{path}[{index}]", kind, expected, "remove this source; use a Secret")


def _mounts(template: Any) -> Iterator[Problem]:
    mounts = _present(template.volume_mounts, f"{_PATH}.volumeMounts")
    volumes = None if template.volumes is None or None in template.volumes else template.volumes
    known = None if volumes is None else sorted(volume["name"] for volume in volumes)
    for path, mount in mounts:
        if mount.mount_path is not None and re.search(RESERVED_PATHS, mount.mount_path):
            expected = "a path outside /etc/rewarm, /var/run/rewarm, /var/lib/rewarm, /tmp, /dev/shm and /mnt/claims"
            yield Problem(f"{path}.mountPath", mount.mount_path, expected, "mount it elsewhere")
        if mount.mount_path is not None and re.search(r"/[.]{1,2}(/|$)", mount.mount_path):
            yield Problem(f"{path}.mountPath", mount.mount_path, "a path without . and ..", "write the path itself")
        if mount.sub_path and re.search(CLIMBING, mount.sub_path):
            yield Problem(f"{path}.subPath", mount.sub_path, "a path inside the volume", "write it without ..")
        if known is not None and mount.name is not None and mount.name not in known:
            expected = f"the name of a volume of this template ({', '.join(known) or 'none'})"
            yield Problem(f"{path}.name", mount.name, expected, "name one, or add it to volumes")
    paths = ((f"{path}.mountPath", mount.mount_path) for path, mount in mounts)
    yield from _repeated(paths, "a path that no other mount has")


def _resources(resources: Any, gpu_resource: str | None) -> Iterator[Problem]:
    for name, quantities in (("requests", resources.requests), ("limits", resources.limits)):
        for resource in quantities or {}:
            if resource == gpu_resource or re.search(GPU_RESOURCES, resource):
                expected = "no GPUs: they come from compute.gpusPerNode and compute.gpuResource"
                yield Problem(f"{_PATH}.resources.{name}", resource, expected, f"remove {resource}")

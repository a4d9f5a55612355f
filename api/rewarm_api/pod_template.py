"""What a user may add to the pods of a run: a whitelist, since everything else of a pod is the operator's.

Only tolerations, affinity and volumes are passed on as they are; what may not stand in them says `pod_rules.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from rewarm_api.fields import (
    ENVIRONMENT_PATTERN,
    LABEL_PATTERN,
    MOUNT_PATTERN,
    Flag,
    FreeForm,
    KubernetesName,
    Spec,
    Text,
)

RESOURCE_QUANTITY = (
    r"^([0-9]{1,15}([.][0-9]{0,9})?|[.][0-9]{1,9})(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][-+]?[0-9]{1,2})?$"
)
VOLUME_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_FIELD = (
    r"^(metadata[.](name|namespace|uid|(labels|annotations)\['[^']{1,320}'\])|spec[.](nodeName|serviceAccountName)"
    r"|status[.](hostIPs?|podIPs?))$"
)
_MOST_ENTRIES = 64
_LONGEST_QUANTITY = 32


def _wrong(expected: str, fix: str) -> PydanticCustomError:
    return PydanticCustomError("quantity", "expected {expected}; {fix}", {"expected": expected, "fix": fix})


def _texts(value: Any) -> Any:
    """A mapping of text to text; the message names the entry, since unquoted YAML values are easily no text."""
    if not isinstance(value, dict) or len(value) > _MOST_ENTRIES:
        raise _wrong(f"a mapping of text to text with at most {_MOST_ENTRIES} entries", "write name: value")
    for key, item in value.items():
        if not isinstance(key, str) or not re.fullmatch(LABEL_PATTERN, key):
            raise _wrong("keys such as example.com/name", f"change the key {key!r}")
        if not isinstance(item, str):
            raise _wrong("a mapping of text to text", f"quote the value of {key}")
    return value


def _quantities(value: Any) -> Any:
    """Quantities by resource, as canonical text or whole numbers."""
    if not isinstance(value, dict) or len(value) > _MOST_ENTRIES:
        raise _wrong(f"quantities by resource name, at most {_MOST_ENTRIES}", "write for example memory: 64Gi")
    for key, item in value.items():
        if not isinstance(key, str) or not re.fullmatch(LABEL_PATTERN, key):
            raise _wrong("resource names such as memory or rdma/hca", f"change the key {key!r}")
        if isinstance(item, float):
            raise _wrong("quantities as whole numbers or text", f"quote the quantity of {key}")
        text = str(item)
        known = isinstance(item, (int, str)) and not isinstance(item, bool)
        if not known or len(text) > _LONGEST_QUANTITY or not re.fullmatch(RESOURCE_QUANTITY, text):
            raise _wrong("quantities such as 500m, 8 or 64Gi", f"change the quantity of {key}")
    return value


def _volume(value: dict[str, Any]) -> dict[str, Any]:
    name = value.get("name")
    if not isinstance(name, str) or not re.fullmatch(VOLUME_NAME, name):
        raise _wrong("a volume with a name of lower-case letters, digits and inner hyphens", "add or change its name")
    return value


def _map_schema(value: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "object", "maxProperties": _MOST_ENTRIES, "additionalProperties": value})


def _open(description: str, **properties: Any) -> dict[str, Any]:
    """A free mapping of which CEL has to see some parts."""
    schema: dict[str, Any] = {"description": description, "type": "object"}
    if properties:
        schema["properties"] = properties
    return schema | {"x-kubernetes-preserve-unknown-fields": True}


_PROJECTION = _open("One source.", serviceAccountToken=_open("Refused."))
_SOURCES = {"description": "What is projected.", "type": "array", "maxItems": 32, "items": _PROJECTION}
_VOLUME_SCHEMA = _open(
    "A volume, as in a pod.",
    name={"description": "Name.", "type": "string", "pattern": VOLUME_NAME, "maxLength": 63},
    hostPath=_open("Refused."),
    projected=_open("Files of several sources.", sources=_SOURCES),
) | {"required": ["name"]}

LabelKey = Annotated[Text, Field(pattern=LABEL_PATTERN, max_length=317)]
TextMap = Annotated[dict[str, str], BeforeValidator(_texts), _map_schema({"type": "string", "maxLength": 4096})]
Quantities = Annotated[
    dict[str, int | str],
    BeforeValidator(_quantities),
    _map_schema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maxLength": _LONGEST_QUANTITY,
            "pattern": RESOURCE_QUANTITY,
        }
    ),
]
Volume = Annotated[FreeForm, AfterValidator(_volume), WithJsonSchema(_VOLUME_SCHEMA)]


class KeyReference(Spec):
    """One key of a Secret or a ConfigMap."""

    name: KubernetesName
    """Name of the object."""
    key: Annotated[Text, Field(min_length=1, max_length=253)]
    """Key in it."""
    optional: Flag = False
    """Start without it when it is missing."""


class FieldReference(Spec):
    """One field of the pod itself."""

    field_path: Annotated[Text, Field(pattern=_FIELD, max_length=350)]
    """For example status.hostIP."""


class ValueFrom(Spec):
    """Where a variable's value comes from: exactly one."""

    secret_key_ref: KeyReference | None = None
    """Key of a Secret."""
    config_map_key_ref: KeyReference | None = None
    """Key of a ConfigMap."""
    field_ref: FieldReference | None = None
    """Field of the pod."""


class Variable(Spec):
    """One variable of the environment: exactly one of value and valueFrom."""

    name: Annotated[Text, Field(pattern=ENVIRONMENT_PATTERN, max_length=253)]
    """Name. Those of Rewarm and of torch's rendezvous are reserved."""
    value: Annotated[Text, Field(max_length=32768)] | None = None
    """Value."""
    value_from: ValueFrom | None = None
    """Where the value comes from."""


class VolumeMount(Spec):
    """Where a volume of this template appears in the trainer's container."""

    name: Annotated[Text, Field(pattern=VOLUME_NAME, max_length=63)]
    """Name of the volume."""
    mount_path: Annotated[Text, Field(pattern=MOUNT_PATTERN, max_length=1024)]
    """Absolute path, without a slash at the end. Those of Rewarm are reserved."""
    read_only: Flag = False
    """Refuse writes."""
    sub_path: Annotated[Text, Field(pattern=r"^([^/:][^:]*)?$", max_length=1024)] = ""
    """Path in the volume. Default: its root."""


class Resources(Spec):
    """Resources of each pod. GPUs come from gpusPerNode."""

    requests: Quantities = Field(default_factory=dict)
    """What a pod is scheduled for."""
    limits: Quantities = Field(default_factory=dict)
    """What a pod may use."""


class ImagePullSecret(Spec):
    """Credentials of an image registry."""

    name: KubernetesName
    """Name of the Secret."""


class Topology(Spec):
    """How near the pods must be, for Kueue's topology-aware scheduling: exactly one."""

    required: LabelKey | None = None
    """Node label of a domain that must hold all pods."""
    preferred: LabelKey | None = None
    """Node label of a domain that should hold all pods."""


class PodTemplate(Spec):
    """What is added to each pod of a run."""

    annotations: TextMap = Field(default_factory=dict)
    """Annotations; those of Rewarm and Kueue are theirs."""
    node_selector: TextMap = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[list[FreeForm], Field(max_length=32)] = Field(default_factory=list)
    """Tolerations, as in a pod."""
    affinity: FreeForm = Field(default_factory=dict)
    """Affinity, as in a pod."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default_factory=list)
    """Volumes, as in a pod, of the kinds that Pod Security `restricted` allows."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = Field(default_factory=list)
    """Where they appear in the trainer's container."""
    env: Annotated[list[Variable], Field(max_length=64)] = Field(default_factory=list)
    """Environment of the trainer's container."""
    resources: Resources = Resources()
    """CPU, memory and devices of each pod; GPUs come from gpusPerNode."""
    image_pull_secrets: Annotated[list[ImagePullSecret], Field(max_length=16)] = Field(default_factory=list)
    """Credentials of image registries."""
    service_account_name: KubernetesName | None = None
    """Service account of the pods; its token is never mounted. Default: the operator's setting."""
    runtime_class_name: KubernetesName | None = None
    """Runtime class of the pods."""
    ipc_lock: Flag = False
    """Add the capability IPC_LOCK, which RDMA may need; Pod Security then has to be `privileged`."""
    topology: Topology | None = None
    """How near the pods must be, for Kueue's topology-aware scheduling."""


def topology_annotations(topology: Topology | None) -> dict[str, str]:
    """The annotations by which Kueue reads it from a pod template."""
    if topology is None:
        return {}
    asked = {"required": topology.required, "preferred": topology.preferred}
    return {f"kueue.x-k8s.io/podset-{kind}-topology": label for kind, label in asked.items() if label is not None}

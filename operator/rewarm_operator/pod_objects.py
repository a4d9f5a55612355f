"""The pods of a run: what stands in them, what they may write, and what a user's podTemplate adds. Pure.

Pod Security `restricted`: non-root, no capabilities, read-only root, no service account token but the projected one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewarm_api.operation import Compute
from rewarm_api.pod_template import PodTemplate, topology_annotations
from rewarm_operator import names
from rewarm_operator.settings import Settings

Json = dict[str, Any]

USER = 65532
_LOST_NODE_SECONDS = 60
_TOKEN_SECONDS = 3600
_WORK = "/var/lib/rewarm"
_CLAIMS = "/mnt/claims"
_CONFIGURATION = "/etc/rewarm"
_TOKEN_FOLDER = "/var/run/rewarm"
_NOTHING_ASKED = PodTemplate()


@dataclass(frozen=True)
class PodFacts:
    """Everything that the pods of one Job depend on."""

    run: Mapping[str, Any]
    snapshot: Mapping[str, Any]
    """The stored one, as JSON."""
    compute: Compute
    settings: Settings
    attempt: int = 0
    """0 for preparation."""
    retries: Mapping[str, int] | None = None
    on_forgetting: str = "Warn"
    tracking_run_id: str = ""
    study: str = ""
    """Text of study.json, of a pod that fits a study (`run` is the study then); empty: a pod of a run."""

    @property
    def run_name(self) -> str:
        return str(self.run["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.run["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.run["metadata"]["uid"])

    @property
    def asked(self) -> PodTemplate:
        """What the user adds to each pod."""
        return self.compute.pod_template or _NOTHING_ASKED

    @property
    def reports(self) -> bool:
        """Whether pods have a place to report to."""
        return bool(self.settings.progress_url and self.settings.progress_ca) and not self.study


def authority_digest(authority: str) -> str:
    """Which certificate authority this is, fit for an annotation."""
    return hashlib.sha256(authority.encode()).hexdigest()[:16]


def attempt_template(facts: PodFacts) -> Json:
    """Of an attempt's pods, one per node."""
    template = _template(facts, names.TRAINER, "train")
    metadata, spec = template["metadata"], template["spec"]
    container = spec["containers"][0]
    metadata["labels"][names.ATTEMPT_LABEL] = str(facts.attempt)
    metadata["annotations"] |= {names.ATTEMPT_ANNOTATION: _attempt_text(facts)}
    metadata["annotations"] |= topology_annotations(facts.asked.topology)
    spec["subdomain"] = facts.run_name
    container["resources"] = _attempt_resources(facts)
    container["ports"] = [
        {"name": "rendezvous", "containerPort": names.RENDEZVOUS_PORT},
        {"name": "metrics", "containerPort": names.METRICS_PORT},
    ]
    if facts.asked.ipc_lock:
        container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    return template


def fit_template(facts: PodFacts) -> Json:
    """Of the one pod that fits the laws of a study."""
    template = _on_the_cpu(facts, names.FIT, "study")
    metadata = template["metadata"]
    # Network policies know our pods by the label of a run.
    own = {names.RUN_LABEL: names.fit_job(facts.run_name), names.STUDY_LABEL: facts.run_name}
    metadata["labels"] |= own
    metadata["annotations"][names.STUDY_ANNOTATION] = facts.study
    return template


def prepare_template(facts: PodFacts) -> Json:
    """Of the one pod that prepares: it needs no GPU, so no GPU waits for it."""
    return _on_the_cpu(facts, names.PREPARE, "prepare")


def _on_the_cpu(facts: PodFacts, role: str, command: str) -> Json:
    template = _template(facts, role, command)
    cpu, memory = facts.settings.prepare_cpu, facts.settings.prepare_memory
    template["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"memory": memory},
    }
    return template


def _template(facts: PodFacts, role: str, command: str) -> Json:
    asked = facts.asked
    annotations = dict(asked.annotations)
    if facts.reports:
        annotations[names.AUTHORITY_ANNOTATION] = facts.settings.progress_ca
        annotations[names.AUTHORITY_DIGEST_ANNOTATION] = authority_digest(facts.settings.progress_ca)
    labels = {names.RUN_LABEL: facts.run_name, names.UID_LABEL: facts.uid, names.ROLE_LABEL: role}
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": _pod_spec(facts, _container(facts, command)),
    }


def _pod_spec(facts: PodFacts, container: Json) -> Json:
    compute, asked = facts.compute, facts.asked
    spec: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": compute.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*_lost_node_tolerations(), *map(dict, asked.tolerations)],
        "volumes": [*_volumes(facts), *map(dict, asked.volumes)],
        "containers": [container],
    }
    optional = {
        "priorityClassName": compute.priority_class,
        "serviceAccountName": asked.service_account_name or facts.settings.service_account,
        "runtimeClassName": asked.runtime_class_name,
        "nodeSelector": dict(asked.node_selector),
        "affinity": dict(asked.affinity),
        "imagePullSecrets": [{"name": secret.name} for secret in asked.image_pull_secrets],
    }
    return spec | {name: value for name, value in optional.items() if value}


def _lost_node_tolerations() -> list[Json]:
    """A lost node shows in a minute, not in the default five: nodes cannot be read under a namespaced Role."""
    return [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _LOST_NODE_SECONDS,
        }
        for trouble in ("not-ready", "unreachable")
    ]


def _container(facts: PodFacts, command: str) -> Json:
    asked = facts.asked
    mounts = [mount.model_dump(by_alias=True, exclude_defaults=True) for mount in asked.volume_mounts]
    return {
        "name": names.CONTAINER,
        "image": facts.compute.image or facts.settings.trainer_image,
        "imagePullPolicy": facts.settings.image_pull_policy,
        "command": ["python", "-m", "rewarm_trainer.pod", command],
        "env": list(_environment(facts)),
        "envFrom": [{"secretRef": {"name": secret}} for secret in _secrets(facts)],
        "volumeMounts": [*_mounts(facts), *mounts],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _secrets(facts: PodFacts) -> tuple[str, ...]:
    """The administrator's first: of two secrets with the same variable the later one wins."""
    given = facts.run["spec"].get("credentials") or ()
    return tuple(dict.fromkeys([*facts.settings.default_credentials, *(str(each["secret"]) for each in given)]))


def _environment(facts: PodFacts) -> Iterator[Json]:
    """Later ones win over earlier ones of the same name, and each name comes once (a server-side apply insists)."""
    values: dict[str, Json] = {name: {"value": value} for name, value in facts.settings.environment.items()}
    for variable in facts.asked.env:
        body = variable.model_dump(by_alias=True, exclude_none=True, exclude={"name"})
        values[variable.name] = body
    values |= {name: {"value": value} for name, value in _own_environment(facts).items()}
    for name, field in (("REWARM_POD_NAME", "metadata.name"), ("REWARM_POD_UID", "metadata.uid")):
        values[name] = {"valueFrom": {"fieldRef": {"fieldPath": field}}}
    for name, value in values.items():
        yield {"name": name, **value}


def _own_environment(facts: PodFacts) -> dict[str, str]:
    compute = facts.compute
    if facts.study:
        return {"HOME": _WORK, "REWARM_NAMESPACE": facts.namespace, "REWARM_CLAIMS": _CLAIMS}
    values = {
        "HOME": _WORK,
        "REWARM_RUN": facts.run_name,
        "REWARM_NAMESPACE": facts.namespace,
        "REWARM_RUN_UID": facts.uid,
        "REWARM_CLAIMS": _CLAIMS,
        "REWARM_METRICS_PORT": str(names.METRICS_PORT),
        "REWARM_TRACKING_OWNER": "operator",
    }
    if facts.attempt:
        job = names.attempt_job(facts.run_name, facts.attempt)
        values |= {
            "REWARM_ATTEMPT": str(facts.attempt),
            "REWARM_NODES": str(compute.nodes),
            "REWARM_PROCESSES_PER_NODE": str(max(1, compute.gpus_per_node)),
            "REWARM_MASTER_ADDRESS": f"{job}-0.{facts.run_name}.{facts.namespace}.svc",
            "REWARM_MASTER_PORT": str(names.RENDEZVOUS_PORT),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(compute.termination_grace_period_seconds - 30),
        }
    if facts.tracking_run_id:
        values["REWARM_TRACKING_RUN_ID"] = facts.tracking_run_id
    if facts.reports:
        path = names.progress_path(facts.namespace, facts.run_name)
        values |= {
            "KUBEFLOW_TRAINER_SERVER_URL": facts.settings.progress_url.rstrip("/") + path,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": f"{_CONFIGURATION}/progress-ca.crt",
            "KUBEFLOW_TRAINER_SERVER_TOKEN": f"{_TOKEN_FOLDER}/token",
        }
    return values


def _attempt_text(facts: PodFacts) -> str:
    """attempt.json: number, nodes, retries and onForgetting, and nothing more."""
    value = {
        "number": facts.attempt,
        "nodes": facts.compute.nodes,
        "retries": dict(facts.retries or {}),
        "onForgetting": facts.on_forgetting,
    }
    return json.dumps(value, separators=(",", ":"))


def _attempt_resources(facts: PodFacts) -> Json:
    compute, asked = facts.compute, facts.asked.resources
    requests, limits = dict(asked.requests), dict(asked.limits)
    if compute.gpus_per_node:
        limits[compute.gpu_resource] = compute.gpus_per_node
    return {name: value for name, value in (("requests", requests), ("limits", limits)) if value}


def _volumes(facts: PodFacts) -> Iterator[Json]:
    audience = names.token_audience(facts.namespace, facts.run_name, facts.uid)
    token = {"path": "token", "audience": audience, "expirationSeconds": _TOKEN_SECONDS}
    work: Json = {"sizeLimit": facts.settings.scratch_size_limit} if facts.settings.scratch_size_limit else {}
    gpus = facts.attempt and facts.compute.gpus_per_node
    yield {"name": "rewarm-configuration", "projected": {"sources": _configuration(facts)}}
    if not facts.study:
        yield {"name": "rewarm-token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    yield {"name": "rewarm-work", "emptyDir": work}
    yield {"name": "rewarm-tmp", "emptyDir": {}}
    yield {"name": "rewarm-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi" if gpus else "1Gi"}}
    for number, claim in enumerate(claims(facts.snapshot)):
        yield {"name": f"rewarm-claim-{number}", "persistentVolumeClaim": {"claimName": claim}}


def _configuration(facts: PodFacts) -> list[Json]:
    def annotation(path: str, name: str) -> Json:
        return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}

    if facts.study:
        return [{"downwardAPI": {"items": [annotation(names.STUDY_KEY, names.STUDY_ANNOTATION)]}}]
    return [
        {"configMap": {"name": facts.run_name, "items": [{"key": names.SNAPSHOT_KEY, "path": names.SNAPSHOT_KEY}]}},
        {
            "downwardAPI": {
                "items": [
                    annotation("attempt.json", names.ATTEMPT_ANNOTATION),
                    annotation("progress-ca.crt", names.AUTHORITY_ANNOTATION),
                ]
            }
        },
    ]


def _mounts(facts: PodFacts) -> Iterator[Json]:
    yield {"name": "rewarm-configuration", "mountPath": _CONFIGURATION, "readOnly": True}
    if not facts.study:
        yield {"name": "rewarm-token", "mountPath": _TOKEN_FOLDER, "readOnly": True}
    yield {"name": "rewarm-work", "mountPath": _WORK}
    yield {"name": "rewarm-tmp", "mountPath": "/tmp"}
    yield {"name": "rewarm-shm", "mountPath": "/dev/shm"}
    for number, (claim, writable) in enumerate(claims(facts.snapshot).items()):
        mount: Json = {"name": f"rewarm-claim-{number}", "mountPath": f"{_CLAIMS}/{claim}"}
        yield mount if writable else mount | {"readOnly": True}


def claims(snapshot: Mapping[str, Any]) -> dict[str, bool]:
    """Claims that the snapshot names, sorted, and whether pods write to them (checkpoints or cache lie there)."""
    written = (snapshot["checkpoints"]["uri"], snapshot["cacheUri"])
    read = [source["uri"] for source in snapshot["sources"]]
    read += [item["uri"] for item in snapshot["evaluation"]["sets"]]
    read += [task for item in snapshot["evaluation"].get("benchmarks", ()) for task in item["tasks"]]
    found = {name: False for name in map(_claim, read) if name}
    base = snapshot["baseModel"]
    if base["kind"] == "volume":
        found.setdefault(str(base["options"]["claim"]), False)
    found |= {name: True for name in map(_claim, written) if name}
    return dict(sorted(found.items()))


def _claim(uri: str | None) -> str:
    """The claim's name in claim://NAME/path; empty for every other place."""
    if not uri or not uri.lower().startswith("claim://"):
        return ""
    return uri[len("claim://") :].partition("/")[0]

"""Pod templates that are taken and that are refused, by validation and by an API server alike."""

from __future__ import annotations

POD = "spec.compute.podTemplate"

WHOLE = """
annotations: {k8s.v1.cni.cncf.io/networks: rdma-net}
nodeSelector: {node.example.com/pool: train}
tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}
volumes:
- {name: fast, emptyDir: {sizeLimit: 100Gi}}
- {name: models, persistentVolumeClaim: {claimName: models, readOnly: true}}
- {name: keys, projected: {sources: [{secret: {name: keys}}]}}
volumeMounts:
- {name: fast, mountPath: /fast}
- {name: models, mountPath: /models, readOnly: true, subPath: llama}
env:
- {name: NCCL_DEBUG, value: INFO}
- {name: OMP_NUM_THREADS, value: "8"}
- {name: REWARM_COMPILE, value: "off"}
- {name: REWARM_CHUNKED_LOSS, value: auto}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}
- {name: LICENCE, valueFrom: {secretKeyRef: {name: licence, key: text, optional: true}}}
- {name: SITE, valueFrom: {configMapKeyRef: {name: site, key: name}}}
- {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
- {name: TEAM, valueFrom: {fieldRef: {fieldPath: "metadata.labels['team']"}}}
resources: {requests: {cpu: 8, memory: 64Gi, ephemeral-storage: "1e9"}, limits: {rdma/hca: 1, memory: 96Gi}}
imagePullSecrets: [{name: registry}]
serviceAccountName: trainer
runtimeClassName: nvidia
ipcLock: true
topology: {required: topology.example.com/rack}
"""

_GPUS = "compute.gpusPerNode"
_RESERVED = "torch's rendezvous"

# (podTemplate, what the server says, the field that validation names, what it says)
REFUSED: dict[str, tuple[str, str, str, str]] = {
    "a field that is not on the list": (
        "{hostNetwork: true}", "hostNetwork", f"{POD}.hostNetwork", "unknown field hostNetwork",
    ),
    "labels": ("{labels: {kueue.x-k8s.io/queue-name: x}}", "labels", f"{POD}.labels", "unknown field labels"),
    "an annotation of ours": (
        "{annotations: {rewarm.dev/attempt: x}}", "are the operator's", f"{POD}.annotations",
        "found rewarm.dev/attempt",
    ),
    "an annotation of Kueue": (
        "{annotations: {kueue.x-k8s.io/podset-required-topology: x}}", "use queue or topology", f"{POD}.annotations",
        "use queue or topology",
    ),
    "a number as an annotation": (
        "{annotations: {a: 1}}", "must be of type string", f"{POD}.annotations", "quote the value of a",
    ),
    "a variable of ours": ("{env: [{name: REWARM_RUN, value: x}]}", _RESERVED, f"{POD}.env[0].name", "remove this"),
    "a variable like a switch of ours": (
        "{env: [{name: REWARM_COMPILED, value: x}]}", _RESERVED, f"{POD}.env[0].name", "remove this",
    ),
    "a switch of speed with another word": (
        "{env: [{name: REWARM_COMPILE, value: x}]}", "one of on, off, auto", f"{POD}.env[0].value", "on | off | auto",
    ),
    "a variable of Kubeflow": (
        "{env: [{name: KUBEFLOW_TRAINER_SERVER_URL, value: x}]}", _RESERVED, f"{POD}.env[0].name", _RESERVED,
    ),
    **{
        f"the rendezvous name {name}": (
            f"{{env: [{{name: A, value: x}}, {{name: {name}, value: x}}]}}", _RESERVED, f"{POD}.env[1].name", _RESERVED,
        )
        for name in (
            "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK",
            "GROUP_RANK", "ROLE_RANK", "JOB_COMPLETION_INDEX", "HOME", "PET_NNODES", "TORCHELASTIC_RUN_ID",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
        )
    },
    **{
        f"{name}, which loads other code": (
            f"{{env: [{{name: {name}, value: x}}]}}", "other code than their image's", f"{POD}.env[0].name",
            "other code than their image's; remove it",
        )
        for name in ("LD_PRELOAD", "LD_AUDIT", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONWARNINGS", "BASH_ENV")
    },
    **{
        f"who the pods are to a bucket, by {name}": (
            f"{{env: [{{name: {name}, valueFrom: {{secretKeyRef: {{name: a, key: b}}}}}}]}}", "spec.credentials names",
            f"{POD}.env[0].name", f"put {name} into a Secret that spec.credentials names",
        )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_ROLE_ARN")
    },
    **{
        f"a secret's value in {name}": (
            f"{{env: [{{name: {name}, value: canary}}]}}", "no secret's value", f"{POD}.env[0].value",
            "found a value, expected no value of",
        )
        for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "SECRET")
    },
    "a mount that climbs out of its volume": (
        "{volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /a, subPath: x/../../y}]}",
        "a path inside the volume", f"{POD}.volumeMounts[0].subPath", "found x/../../y, expected a path inside",
    ),
    "a variable twice": (
        "{env: [{name: A, value: x}, {name: A, value: y}]}", "Duplicate value", f"{POD}.env[1].name", "found A, which",
    ),
    "a variable of no value": ("{env: [{name: A}]}", "exactly one of value", f"{POD}.env[0]", "exactly one of value"),
    "a variable of two values": (
        "{env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}", "exactly one of value",
        f"{POD}.env[0]", "found value and valueFrom",
    ),
    "a value of no source": (
        "{env: [{name: A, valueFrom: {}}]}", "exactly one of secretKeyRef", f"{POD}.env[0].valueFrom", "secretKeyRef",
    ),
    "a number as a variable": (
        "{env: [{name: A, value: 4}]}", "must be of type string", f"{POD}.env[0].value", "quote it",
    ),
    "a variable with a bad name": (
        "{env: [{name: 4A, value: x}]}", "should match", f"{POD}.env[0].name", "no digit first",
    ),
    "a field of no pod": (
        "{env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.containers}}}]}", "should match",
        f"{POD}.env[0].valueFrom.fieldRef.fieldPath", "found spec.containers",
    ),
    "a volume of the host": (
        "{volumes: [{name: h, hostPath: {path: /}}]}", "hostPath is outside", f"{POD}.volumes[0]", "found hostPath",
    ),
    "a service account token": (
        "{volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}", "no service account token",
        f"{POD}.volumes[0].projected.sources[0]", "no service account token",
    ),
    "a volume of ours": (
        "{volumes: [{name: rewarm-work, emptyDir: {}}]}", "begin with rewarm", f"{POD}.volumes[0].name",
        "begin with rewarm",
    ),
    "a volume twice": (
        "{volumes: [{name: a, emptyDir: {}}, {name: a, emptyDir: {}}]}", "Duplicate value", f"{POD}.volumes[1].name",
        "found a, which",
    ),
    "a volume without a name": (
        "{volumes: [{emptyDir: {}}]}", "name: Required value", f"{POD}.volumes[0]", "add or change its name",
    ),
    "a mount of no volume": (
        "{volumeMounts: [{name: a, mountPath: /a}]}", "must name a volume", f"{POD}.volumeMounts[0].name", "(none)",
    ),
    **{
        f"a mount at {path}": (
            f"{{volumes: [{{name: a, emptyDir: {{}}}}], volumeMounts: [{{name: a, mountPath: {path}}}]}}",
            "Rewarm's own", f"{POD}.volumeMounts[0].mountPath", f"found {path}",
        )
        for path in (
            "/etc/rewarm", "/var/run/rewarm", "/run/rewarm/x", "/var/lib/rewarm/work", "/tmp", "/dev/shm",
            "/mnt/claims/a",
        )
    },
    "a mount by a detour": (
        "{volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /x/../tmp}]}", "without . and ..",
        f"{POD}.volumeMounts[0].mountPath", "without . and ..",
    ),
    "a mount with a slash at the end": (
        "{volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /a/}]}", "should match",
        f"{POD}.volumeMounts[0].mountPath", "without a slash at the end",
    ),
    "two mounts at a path": (
        "{volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /a}, {name: a, mountPath: /a}]}",
        "Duplicate value", f"{POD}.volumeMounts[1].mountPath", "found /a, which",
    ),
    "GPUs as a limit": (
        "{resources: {limits: {nvidia.com/gpu: 8}}}", _GPUS, f"{POD}.resources.limits", _GPUS,
    ),
    "slices of GPUs as a request": (
        "{resources: {requests: {nvidia.com/mig-1g.10gb: 1}}}", _GPUS, f"{POD}.resources.requests", _GPUS,
    ),
    "a quantity in words": (
        "{resources: {limits: {memory: 64 GB}}}", "should match", f"{POD}.resources.limits", "the quantity of memory",
    ),
    "a negative quantity": (
        "{resources: {limits: {cpu: -1}}}", "greater than or equal to 0", f"{POD}.resources.limits", "quantity of cpu",
    ),
    "a fraction without quotes": (
        "{resources: {limits: {cpu: 0.5}}}", "cpu", f"{POD}.resources.limits", "quote the quantity of cpu",
    ),
    "a Secret twice": (
        "{imagePullSecrets: [{name: a}, {name: a}]}", "Duplicate value", f"{POD}.imagePullSecrets[1].name", "found a",
    ),
    "two topologies": (
        "{topology: {required: a, preferred: b}}", "exactly one of required", f"{POD}.topology",
        "found required and preferred",
    ),
    "a topology of none": ("{topology: {}}", "exactly one of required", f"{POD}.topology", "found nothing"),
    "a topology that is no label": (
        "{topology: {required: a b}}", "should match", f"{POD}.topology.required", "found a b",
    ),
}  # fmt: skip

"""The objects that are posted: every field of the design's tables, and nothing that Pod Security refuses."""

from __future__ import annotations

import copy
import json

import pytest
from operator_world import SETTINGS, World

from rewarm_operator import names, objects, pod_objects
from rewarm_operator.settings import Settings
from rewarm_operator.starting import pod_facts
from rewarm_operator.visit import Visit

TEMPLATE = {
    "annotations": {"team": "nlp"},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "volumes": [{"name": "extra", "emptyDir": {}}],
    "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "env": [
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ],
    "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainers",
    "runtimeClassName": "nvidia",
    "ipcLock": True,
    "topology": {"required": "topology.kubernetes.io/zone"},
}  # fmt: skip


def attempt(number: int = 1, settings: Settings = SETTINGS, **changes) -> dict:
    return objects.attempt_job(facts(number, settings, **changes))


def facts(number: int, settings: Settings = SETTINGS, **changes) -> pod_objects.PodFacts:
    world = World(settings=settings, **changes)
    world.settle()
    return pod_facts(Visit(world.observed(), settings), number)


def container(job: dict) -> dict:
    return job["spec"]["template"]["spec"]["containers"][0]


def environment(job: dict) -> dict:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(job)["env"]}


def test_fields_of_an_attempt_as_the_table_has_them():
    job = attempt(3, compute__terminationGracePeriodSeconds=120)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == "llama-a3"
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    disruption, codes = spec["podFailurePolicy"]["rules"]
    assert disruption == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert codes["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [64, 65, 66]}
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 120)
    assert environment(job)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "90"
    assert {(t["key"], t["tolerationSeconds"]) for t in pod["tolerations"]} == {
        ("node.kubernetes.io/not-ready", 60),
        ("node.kubernetes.io/unreachable", 60),
    }
    assert "suspend" not in spec, "suspend on Jobs is Kueue's own"
    assert not {"activeDeadlineSeconds", "ttlSecondsAfterFinished"} & spec.keys()
    assert pod["subdomain"] == "llama"


def test_labels_and_owner_let_everything_be_found_and_deleted_again():
    job = attempt(2)
    expected = {
        "rewarm.dev/run": "llama",
        "rewarm.dev/run-uid": "run-uid",
        "rewarm.dev/attempt": "2",
        "rewarm.dev/role": "trainer",
    }
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"] == expected
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "rewarm.dev/v1alpha1",
        "kind": "ContinualRun",
        "name": "llama",
        "uid": "run-uid",
        "controller": True,
        "blockOwnerDeletion": True,
    }


@pytest.mark.parametrize("role", ["prepare", "attempt"])
def test_pods_are_fit_for_pod_security_restricted(role):
    job = attempt() if role == "attempt" else objects.prepare_job(facts(0), {})
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(job)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
    assert kinds <= {"projected", "emptyDir", "persistentVolumeClaim"}
    writable = {m["mountPath"] for m in container(job)["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/var/lib/rewarm", "/tmp", "/dev/shm"}


def test_environment_of_an_attempt():
    job = attempt(2, compute__gpusPerNode=8, training__globalBatchTokens=8192)
    found = environment(job)
    assert found["REWARM_MASTER_ADDRESS"] == "llama-a2-0.llama.research.svc"
    assert {name: found[name] for name in found if name in ("REWARM_ATTEMPT", "REWARM_NODES")} == {
        "REWARM_ATTEMPT": "2",
        "REWARM_NODES": "2",
    }
    assert found["REWARM_PROCESSES_PER_NODE"] == "8"
    assert found["KUBEFLOW_TRAINER_SERVER_URL"] == ("https://rewarm.rewarm-system.svc:8443/v1/progress/research/llama")
    assert found["KUBEFLOW_TRAINER_SERVER_TOKEN"] == "/var/run/rewarm/token"
    assert found["REWARM_POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert found["REWARM_TRACKING_OWNER"] == "operator"
    assert (found["HOME"], found["REWARM_CLAIMS"], found["REWARM_METRICS_PORT"]) == (
        "/var/lib/rewarm",
        "/mnt/claims",
        "9400",
    )
    assert "OMP_NUM_THREADS" not in found
    assert len(found) == len(container(job)["env"]), "each name once"


def test_gpus_are_limits_and_a_cpu_run_has_none():
    gpu = attempt(compute__gpusPerNode=4, compute__gpuResource="amd.com/gpu")
    assert container(gpu)["resources"] == {"limits": {"amd.com/gpu": 4}}
    assert container(attempt())["resources"] == {}
    sizes = [
        volume["emptyDir"]
        for job in (gpu, attempt())
        for volume in job["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "rewarm-shm"
    ]
    assert sizes == [{"medium": "Memory", "sizeLimit": "8Gi"}, {"medium": "Memory", "sizeLimit": "1Gi"}]


def test_files_in_the_pod():
    job = attempt()
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    config, fields = volumes["rewarm-configuration"]["projected"]["sources"]
    assert config == {"configMap": {"name": "llama", "items": [{"key": "snapshot.json", "path": "snapshot.json"}]}}
    assert [item["path"] for item in fields["downwardAPI"]["items"]] == ["attempt.json", "progress-ca.crt"]
    (token,) = volumes["rewarm-token"]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "rewarm.dev/research/llama/run-uid"
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert annotations["rewarm.dev/progress-ca"] == SETTINGS.progress_ca
    assert json.loads(annotations["rewarm.dev/attempt"]) == {
        "number": 1,
        "nodes": 2,
        "retries": {"maxFailures": 3, "maxDisruptions": 100},
        "onForgetting": "Warn",
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container(job)["volumeMounts"]}
    assert mounts["/etc/rewarm"] == "rewarm-configuration"
    assert mounts["/var/run/rewarm"] == "rewarm-token"


def test_claims_are_writable_only_where_something_is_written():
    job = attempt(checkpoints={"uri": "claim://runs/llama/"}, baseModel={"volume": {"claim": "models"}})
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in container(job)["volumeMounts"]}
    found = {path: read_only for path, read_only in mounts.items() if path.startswith("/mnt/claims/")}
    assert found == {"/mnt/claims/models": True, "/mnt/claims/runs": False, "/mnt/claims/texts": True}
    names_used = [volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]]
    assert len(names_used) == len(set(names_used))


def test_secrets_come_by_name_the_administrators_first():
    settings = Settings(trainer_image="t", default_credentials=("shared", "s3-credentials"))
    job = attempt(settings=settings)
    assert container(job)["envFrom"] == [{"secretRef": {"name": "shared"}}, {"secretRef": {"name": "s3-credentials"}}]


def test_without_a_progress_server_nothing_points_to_one():
    job = attempt(settings=Settings(trainer_image="t"))
    assert not [name for name in environment(job) if name.startswith("KUBEFLOW")]
    assert "rewarm.dev/progress-ca" not in job["spec"]["template"]["metadata"]["annotations"]


def test_what_a_pod_template_adds():
    job = attempt(compute__podTemplate=TEMPLATE)
    pod, trainer = job["spec"]["template"]["spec"], container(job)
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert annotations["team"] == "nlp"
    assert annotations["kueue.x-k8s.io/podset-required-topology"] == "topology.kubernetes.io/zone"
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"][-1] == {"key": "gpu", "operator": "Exists"}
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert pod["volumes"][-1] == {"name": "extra", "emptyDir": {}}
    assert trainer["volumeMounts"][-1] == {"name": "extra", "mountPath": "/extra"}
    assert environment(job)["OMP_NUM_THREADS"] == "1"
    assert environment(job)["HOST"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    assert trainer["resources"] == {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert (pod["serviceAccountName"], pod["runtimeClassName"]) == ("trainers", "nvidia")
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_preparation_is_one_pod_on_the_cpu():
    job = objects.prepare_job(facts(0, compute__gpusPerNode=8, training__globalBatchTokens=8192), {"tries": 2})
    assert job["metadata"]["name"] == "llama-prepare"
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (1, 1, 0)
    assert container(job)["command"] == ["python", "-m", "rewarm_trainer.pod", "prepare"]
    assert container(job)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    assert job["spec"]["template"]["metadata"]["labels"]["rewarm.dev/role"] == "prepare"
    assert "subdomain" not in job["spec"]["template"]["spec"]
    assert json.loads(job["metadata"]["annotations"][names.SPENT_ANNOTATION]) == {"tries": 2}


def test_every_job_of_a_queued_run_names_its_queue():
    queued = {"compute__queue": "gpu-queue", "compute__workloadPriorityClass": "high"}
    for job in (attempt(**queued), objects.prepare_job(facts(0, **queued), {})):
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
        assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"


def test_the_service_gives_each_rank_a_name_before_it_is_ready():
    world = World()
    world.settle()
    spec = world.service["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["selector"] == {"rewarm.dev/run-uid": "run-uid", "rewarm.dev/role": "trainer"}
    assert {port["name"]: port["port"] for port in spec["ports"]} == {"rendezvous": 29500, "metrics": 9400}


def test_the_config_map_holds_the_snapshot_and_its_digest():
    world = World()
    world.settle()
    stored = json.loads(world.config_map["data"]["snapshot.json"])
    assert stored["digest"] == world.status["snapshotDigest"]
    assert stored["uid"] == "run-uid"
    assert world.config_map["immutable"] is True


def test_objects_are_made_anew_each_time():
    first = attempt()
    again = copy.deepcopy(first)
    container(first)["securityContext"]["capabilities"]["drop"].append("x")
    first["spec"]["podFailurePolicy"]["rules"].clear()
    assert attempt() == again


@pytest.mark.parametrize(
    ("job", "number"), [("llama-a12", 12), ("llama-a0", None), ("llama-prepare", None), ("x-a1", None)]
)
def test_the_number_in_a_name(job, number):
    assert names.attempt_number("llama", job) == number
